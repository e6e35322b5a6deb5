COMMENT
One step of the neuron that NEST calls iaf_bw_2001, in its order and units (pF, nS, mV, ms, mM): leaky integrate-and-fire
with AMPA, NMDA and GABA conductances (X.-J. Wang, Journal of Neuroscience 19 (1999) 9587-9603; N. Brunel, X.-J. Wang,
Journal of Computational Neuroscience 11 (2001) 63-85).

    C_m dV/dt = g_L (E_L - V) + (s_ampa + s_nmda / (1 + conc_Mg2 exp(-0.062 V) / 3.57)) (E_ex - V) + s_gaba (E_in - V) + I_e

V moves with the gatings, which decay meanwhile (Runge-Kutta of order 4 for V, the gatings exactly); then what arrives in
the step is added. Above V_th V is left to be seen until the next step, which resets it. It is not the potential of the
section: NetPyNE's vref.

A spike carries three weights [nS], of which one is not 0: `recurrent`, of the NMDA synapses of an E neuron of the network,
which has AMPA synapses as well, AMPA_per_NMDA times as strong; or ampa; or gaba. The gating s of an NMDA synapse lies in
its connection, and a spike raises it by k_0 + k_1 s. External spikes are drawn here: as many in a step as
levels are exceeded by a number of P. L'Ecuyer's generator (Communications of the ACM 31 (1988) 742-749, figure 3).
ENDCOMMENT

NEURON {
    POINT_PROCESS IafBw
    RANGE C_m, g_L, E_L, E_ex, E_in, V_th, V_reset, conc_Mg2, V_m, I_e
    RANGE half_AMPA, half_NMDA, half_GABA, ref_steps, k_0, k_1, tau_decay_NMDA, AMPA_per_NMDA
    RANGE external_weight, x_0, y_0, late_steps
    RANGE level0, level1, level2, level3, level4, level5, level6, level7, level8, level9
    RANGE V, s_ampa, s_nmda, s_gaba, arrived_ampa, arrived_nmda, arrived_gaba, waits, late, x, y
    THREADSAFE
}

PARAMETER {
    C_m = 500
    g_L = 25
    E_L = -70
    E_ex = 0
    E_in = -70
    V_th = -50
    V_reset = -55
    conc_Mg2 = 1
    V_m = -70 : at t = 0
    I_e = 0
    half_AMPA = 1
    half_NMDA = 1
    half_GABA = 1
    ref_steps = 0
    k_0 = 1
    k_1 = 0
    tau_decay_NMDA = 100
    AMPA_per_NMDA = 0
    external_weight = 0
    x_0 = 1 : of the generator, at t = 0
    y_0 = 1
    late_steps = 0
    level0 = 1e12
    level1 = 1e12
    level2 = 1e12
    level3 = 1e12
    level4 = 1e12
    level5 = 1e12
    level6 = 1e12
    level7 = 1e12
    level8 = 1e12
    level9 = 1e12
}

ASSIGNED {
    dt
    V
    s_ampa
    s_nmda
    s_gaba
    arrived_ampa
    arrived_nmda
    arrived_gaba
    waits : steps that are left of the refractory time
    late : steps that are left before external spikes arrive
    x
    y
}

INITIAL {
    V = V_m
    s_ampa = 0
    s_nmda = 0
    s_gaba = 0
    arrived_ampa = 0
    arrived_nmda = 0
    arrived_gaba = 0
    waits = 0
    late = late_steps
    x = x_0
    y = y_0
}

BREAKPOINT {
    SOLVE advance
}

FUNCTION slope(v, ampa, nmda, gaba) {
    slope = (g_L * (E_L - v) + (ampa + nmda / (1 + conc_Mg2 * exp(-0.062 * v) / 3.57)) * (E_ex - v) + gaba * (E_in - v) + I_e) / C_m
}

FUNCTION external() { LOCAL z, n
    n = 0
    if (late > 0) {
        late = late - 1
    } else {
        x = fmod(40014 * x, 2147483563)
        y = fmod(40692 * y, 2147483399)
        z = x - y
        if (z < 1) { z = z + 2147483562 }
        if (z > level0) {
            n = 1
            if (z > level1) { n = 2 }
            if (z > level2) { n = 3 }
            if (z > level3) { n = 4 }
            if (z > level4) { n = 5 }
            if (z > level5) { n = 6 }
            if (z > level6) { n = 7 }
            if (z > level7) { n = 8 }
            if (z > level8) { n = 9 }
            if (z > level9) { n = 10 }
        }
    }
    external = n
}

PROCEDURE advance() { LOCAL ampa, nmda, gaba, k1, k2, k3, k4
    if (V > V_th) {
        V = V_reset
        waits = ref_steps
    }
    ampa = s_ampa * half_AMPA
    nmda = s_nmda * half_NMDA
    gaba = s_gaba * half_GABA
    if (waits > 0) {
        waits = waits - 1
    } else {
        k1 = slope(V, s_ampa, s_nmda, s_gaba)
        k2 = slope(V + 0.5 * dt * k1, ampa, nmda, gaba)
        k3 = slope(V + 0.5 * dt * k2, ampa, nmda, gaba)
        k4 = slope(V + dt * k3, ampa * half_AMPA, nmda * half_NMDA, gaba * half_GABA)
        V = V + dt * (k1 + 2 * k2 + 2 * k3 + k4) / 6
    }
    s_ampa = ampa * half_AMPA + arrived_ampa + external_weight * external()
    s_nmda = nmda * half_NMDA + arrived_nmda
    s_gaba = gaba * half_GABA + arrived_gaba
    arrived_ampa = 0
    arrived_nmda = 0
    arrived_gaba = 0
}

NET_RECEIVE(recurrent, ampa, gaba, s, last) { LOCAL jump
    INITIAL {
        s = 0
        last = 0
    }
    arrived_ampa = arrived_ampa + ampa
    arrived_gaba = arrived_gaba + gaba
    if (recurrent > 0) {
        s = s * exp(-(t - last) / tau_decay_NMDA)
        last = t
        jump = k_0 + k_1 * s
        s = s + jump
        arrived_nmda = arrived_nmda + recurrent * jump
        arrived_ampa = arrived_ampa + recurrent * AMPA_per_NMDA
    }
}
