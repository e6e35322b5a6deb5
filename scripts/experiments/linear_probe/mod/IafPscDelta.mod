COMMENT
One step of the neuron that NEST calls iaf_psc_delta, in its order and units (pA, mV): leaky integrate-and-fire, whose
potential jumps by the weight [mV] of a spike that arrives. P and G are the exact integration of a step (S. Rotter,
M. Diesmann, Biological Cybernetics 81 (1999) 381-402). What arrives in the refractory time is lost.

Above V_th V is left to be seen until the next step, which resets it. It is not the potential of the section: NetPyNE's
vref.
ENDCOMMENT

NEURON {
    POINT_PROCESS IafPscDelta
    RANGE E_L, V_th, V_reset, V_m, P, G, ref_steps, I_e, i_offset
    RANGE V, arrived, waits
    THREADSAFE
}

PARAMETER {
    E_L = -70
    V_th = -55
    V_reset = -70
    V_m = -70 : at t = 0
    P = 1
    G = 0
    ref_steps = 0
    I_e = 0
    i_offset = 0 : from TVB
}

ASSIGNED {
    V
    arrived
    waits : steps that are left of the refractory time
}

INITIAL {
    V = V_m
    arrived = 0
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
        V = E_L + P * (V - E_L) + G * (i_offset + I_e) + arrived
    }
    arrived = 0
}

NET_RECEIVE(weight) {
    arrived = arrived + weight
}
