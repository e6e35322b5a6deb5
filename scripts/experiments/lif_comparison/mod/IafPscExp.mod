COMMENT
One step of the neuron that NEST calls iaf_psc_exp, in its order and units (pA, mV): leaky integrate-and-fire with two
currents that jump at a spike and decay exponentially. The propagators P of the step are given (S. Rotter, M. Diesmann,
Biological Cybernetics 81 (1999) 381-402). A positive weight [pA] excites, a negative one inhibits.

V moves with the currents of before the step; then they decay, and the spikes that arrive in the step are added. Above
V_th V is left to be seen until the next step, which resets it. It is not the potential of the section: NetPyNE's vref.
ENDCOMMENT

NEURON {
    POINT_PROCESS IafPscExp
    RANGE E_L, V_th, V_reset, V_m, P22, P11_ex, P11_in, P21_ex, P21_in, ref_steps
    RANGE V, i_ex, i_in, arrived_ex, arrived_in, waits
    THREADSAFE
}

PARAMETER {
    E_L = -70
    V_th = -55
    V_reset = -70
    V_m = -70 : at t = 0
    P22 = 1
    P11_ex = 1
    P11_in = 1
    P21_ex = 0
    P21_in = 0
    ref_steps = 0
}

ASSIGNED {
    V
    i_ex
    i_in
    arrived_ex
    arrived_in
    waits : steps that are left of the refractory time
}

INITIAL {
    V = V_m
    i_ex = 0
    i_in = 0
    arrived_ex = 0
    arrived_in = 0
    waits = 0
}

BREAKPOINT {
    SOLVE advance
}

PROCEDURE advance() {
    if (V > V_th) {
        V = V_reset
        waits = ref_steps
    }
    if (waits > 0) {
        waits = waits - 1
    } else {
        V = E_L + P22 * (V - E_L) + P21_ex * i_ex + P21_in * i_in
    }
    i_ex = P11_ex * i_ex + arrived_ex
    i_in = P11_in * i_in + arrived_in
    arrived_ex = 0
    arrived_in = 0
}

NET_RECEIVE(weight) {
    if (weight > 0) {
        arrived_ex = arrived_ex + weight
    } else {
        arrived_in = arrived_in + weight
    }
}
