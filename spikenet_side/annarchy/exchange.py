"""The population that exchanges with the other programs: C++ that runs inside ANNarchy's own step, after all neurons.

ANNarchy's step n is ``[n h, (n + 1) h)``: synapses deliver what was fired in step n - 1, then the neurons of each
population are updated and fire, population after population in the order of their creation. This one is the last. So at
the end of step n it sees the spikes of step n, and what it adds to a conductance acts in step n + 1, exactly as a spike
that a synapse of one step's delay delivers then. An input of step s with an edge of d steps is therefore put in at the
end of step s + d - 1: every d from one step on is exact, and nothing has to be handed over twice.

The code depends on the user's populations alone. Channels, edges, weights, delays and rates are data, so that a network
is compiled once whatever is coupled to it.
"""

from __future__ import annotations

from typing import Any

RATE, SPIKES, CURRENT, CORRELATED = range(4)

_STRUCTS = """
#include <cmath>
#include <cstdint>
#include <cstring>
#include <stdexcept>

struct LockstepField { FLOAT* data; size_t size; };  // one attribute of one population
struct LockstepEdge { size_t group; long delay; double weight; LockstepField field; size_t current; };
struct LockstepCurrent { LockstepField field; std::vector<FLOAT> base; double total, acting; };

// One channel from outside: a row for each step, a column for each group; rows are kept as long as an edge looks back.
struct LockstepInput {
    int model;
    size_t groups, columns;
    double decay;                     // of a correlated rate, in one step
    std::vector<double> z;            // its state in each group
    std::vector<LockstepEdge> edges;
    std::vector<double> rows;
    long from, longest;
};
"""

_DECLARE = """
    enum { RATE, SPIKES, CURRENT, CORRELATED };
    std::vector<LockstepInput> inputs;
    std::vector<LockstepCurrent> currents;
    std::mt19937_64 random;

    // spikes of the window: step, neuron counted through the populations; mean potentials at the start of TVB's steps
    std::vector<int64_t> spike_steps;
    std::vector<int32_t> spike_neurons;
    std::vector<LockstepField> metered;
    std::vector<double> potentials;
    long potential_steps;

    LockstepField field(const int number) {
        switch (number) {
FIELDS
        }
        throw std::out_of_range("there is no such field");
    }

    void seed(const uint64_t value) { random.seed(value); }

    int add_input(const int model, const int groups, const double decay) {
        const size_t n = groups;
        LockstepInput input{model, n, model == CORRELATED ? 2 * n : n, decay, {}, {}, {}, 0, 1};
        if (model == CORRELATED) {
            std::normal_distribution<double> normal;
            for (size_t g = 0; g < n; g++) input.z.push_back(normal(random));
        }
        inputs.push_back(input);
        return inputs.size() - 1;
    }

    void add_edge(const int number, const int group, const int target, const long delay, const double weight) {
        LockstepInput& input = inputs.at(number);
        LockstepEdge edge{size_t(group), delay, weight, field(target), 0};
        if (input.model == CURRENT) {
            while (edge.current < currents.size() && currents[edge.current].field.data != edge.field.data)
                edge.current++;
            if (edge.current == currents.size()) {
                const std::vector<FLOAT> base(edge.field.data, edge.field.data + edge.field.size);
                currents.push_back(LockstepCurrent{edge.field, base, 0.0, 0.0});
            }
        }
        input.longest = std::max(input.longest, delay);
        input.edges.push_back(edge);
    }

    void meter(const int number, const long steps) {
        potential_steps = steps;
        metered.push_back(field(number));
        sample(metered.back());  // at the start of the run
    }

    void sample(const LockstepField& of) {
        double sum = 0.0;
        for (size_t i = 0; i < of.size; i++) sum += of.data[i];
        potentials.push_back(sum / of.size);
    }

    void feed(const int number, const long first, const double* values, const size_t n_values) {
        LockstepInput& input = inputs.at(number);
        const long kept = std::max(input.from, first - input.longest);
        input.rows.erase(input.rows.begin(), input.rows.begin() + (kept - input.from) * input.columns);
        input.from = kept;
        if (long(input.rows.size()) != (first - kept) * long(input.columns))
            throw std::runtime_error("the input does not begin where the last one ended");
        input.rows.insert(input.rows.end(), values, values + n_values);
    }

    void exchange() {
        int32_t offset = 0;
SPIKED
        if (!metered.empty() && (t + 1) % potential_steps == 0)
            for (const LockstepField& of : metered) sample(of);
        for (LockstepInput& input : inputs) deliver(input);
        for (LockstepCurrent& current : currents) {
            if (current.total != current.acting)
                for (size_t i = 0; i < current.field.size; i++)
                    current.field.data[i] = current.base[i] + FLOAT(current.total);
            current.acting = current.total;
            current.total = 0.0;
        }
    }

    void deliver(LockstepInput& input) {
        if (input.model == CORRELATED) {  // the spikes of this step take the place of its rates
            double* row = input.rows.data() + (t - input.from) * input.columns;
            std::normal_distribution<double> normal;
            for (size_t g = 0; g < input.groups; g++) {
                input.z[g] = input.decay * input.z[g] + std::sqrt(1.0 - input.decay * input.decay) * normal(random);
                row[g] = poisson(row[g] + row[input.groups + g] * input.z[g]);
            }
        }
        for (const LockstepEdge& edge : input.edges) {
            const long step = t + 1 - edge.delay;
            if (step < input.from) continue;  // before the start of the run
            const double value = input.rows[(step - input.from) * input.columns + edge.group];
            if (value == 0.0) continue;
            if (input.model == CURRENT) {
                currents[edge.current].total += edge.weight * value;
            } else if (input.model == RATE) {
                // Poisson spikes for all neurons together, each to one of them by chance: the same as a Poisson train
                // of its own for each
                for (long n = poisson(value * edge.field.size); n > 0; n--)
                    edge.field.data[uint64_t((unsigned __int128)(random()) * edge.field.size >> 64)] += edge.weight;
            } else {
                const FLOAT all = edge.weight * value;
                for (size_t i = 0; i < edge.field.size; i++) edge.field.data[i] += all;
            }
        }
    }

    long poisson(const double rate) {  // [Hz]
        const double mean = rate * double(dt) * 1e-3;
        return mean > 0.0 ? std::poisson_distribution<long>(mean)(random) : 0;
    }
"""

_SPIKED = """        for (const int i : popID->spiked) {
            spike_steps.push_back(t);
            spike_neurons.push_back(offset + i);
        }
        offset += popID->size;"""

_WRAPPER = """
    nanobind::class_<PopStructID>(m, "popID_wrapper")
        .def(nanobind::init<int, int>())
        .def_rw("size", &PopStructID::size)
        .def_rw("max_delay", &PopStructID::max_delay)
        .def_rw("r", &PopStructID::r)
        .def("activate", &PopStructID::set_active)
        .def("compute_firing_rate", &PopStructID::compute_firing_rate)
        .def("reset", &PopStructID::reset)
        .def("size_in_bytes", &PopStructID::size_in_bytes)
        .def("clear", &PopStructID::clear)
        .def("seed", &PopStructID::seed)
        .def("add_input", &PopStructID::add_input)
        .def("add_edge", &PopStructID::add_edge)
        .def("meter", &PopStructID::meter)
        .def("feed", [](PopStructID& self, int number, long first, nanobind::bytes data) {
            std::vector<double> values(data.size() / sizeof(double));
            std::memcpy(values.data(), data.c_str(), data.size());
            self.feed(number, first, values.data(), values.size());
        })
        .def("advance", [](PopStructID&, int n_steps) {
            nanobind::gil_scoped_release others_may_run;
            run(n_steps);
        })
        .def("take_spikes", [](PopStructID& self) {
            const auto taken = nanobind::make_tuple(
                nanobind::bytes((const char*)self.spike_steps.data(), self.spike_steps.size() * sizeof(int64_t)),
                nanobind::bytes((const char*)self.spike_neurons.data(), self.spike_neurons.size() * sizeof(int32_t)));
            self.spike_steps.clear();
            self.spike_neurons.clear();
            return taken;
        })
        .def("take_potentials", [](PopStructID& self) {  // the sample at the end of a window begins the next one
            const size_t n = self.potentials.size() - self.metered.size();
            const nanobind::bytes taken((const char*)self.potentials.data(), n * sizeof(double));
            self.potentials.erase(self.potentials.begin(), self.potentials.begin() + n);
            return taken;
        });
"""


def fields_of(populations: list[Any]) -> list[tuple[int, str, str]]:
    """What can be written to or read: (index of the population, attribute, "local" or "global"), for numbers only."""
    fields = []
    for index, population in enumerate(populations):
        described = population.neuron_type.description
        for attribute in [*described["parameters"], *described["variables"]]:
            if attribute["ctype"] in ("double", "float") and attribute["locality"] in ("local", "global"):
                fields.append((index, attribute["name"], attribute["locality"]))
    return fields


def make_exchange(network: Any, populations: list[Any], precision: str) -> tuple[Any, list[tuple[int, str, str]]]:
    """Add the exchange population to `network`, whose other populations have all been created. Not yet compiled.

    populations: those whose spikes are recorded, in the order in which their neurons are numbered. precision: "double"
    or "float", of ANNarchy's attributes. Returns the population and the fields that its C++ knows by number.
    """
    from ANNarchy import Neuron
    from ANNarchy.intern.SpecificPopulation import SpecificPopulation

    fields = fields_of(populations)

    class LockstepExchange(SpecificPopulation):
        """One neuron that never fires: its update is the exchange."""

        def __init__(self) -> None:
            neuron = Neuron(parameters="", equations="", spike="t==0", reset="", name="Lockstep exchange")
            super().__init__(1, neuron, name="lockstep_exchange", copied=True, net_id=network.id)

        def _generate_st(self) -> None:
            cases = "\n".join(
                f"        case {number}: return {{pop{populations[index].id}->{name}.data(), "
                f"pop{populations[index].id}->{name}.size()}};"
                if locality == "local"
                else f"        case {number}: return {{&pop{populations[index].id}->{name}, 1}};"
                for number, (index, name, locality) in enumerate(fields)
            )
            spiked = "\n".join(_SPIKED.replace("ID", str(population.id)) for population in populations)
            self._specific_template.update(
                struct_additional=_STRUCTS.replace("FLOAT", precision),
                declare_additional=_DECLARE.replace("FIELDS", cases).replace("SPIKED", spiked)
                .replace("FLOAT", precision),
                init_additional="",
                reset_additional="",
                update_variables="        exchange();",
                test_spike_cond="",
                spike_gather_code="",
                wrapper=_WRAPPER.replace("ID", str(self.id)),
            )  # fmt: skip

        def _instantiate(self, module: Any) -> None:
            self.cyInstance = getattr(module, f"{self.class_name}_wrapper")(self.size, self.max_delay)

    return LockstepExchange(), fields
