COMMENT
The neuron that NEST calls iaf_cond_exp, in its units (pF, nS, mV, pA, ms): leaky integrate-and-fire with two
conductances that jump at a spike and decay exponentially (H. Meffin, A. N. Burkitt, D. B. Grayden, Journal of
Computational Neuroscience 16 (2004) 159-175). A positive weight [nS] excites, a negative one inhibits.

    C_m dV/dt = -g_L (V - E_L) - g_ex (V - E_ex) - g_in (V - E_in) + I_e

NEST solves this by Runge-Kutta-Fehlberg 4(5). Here the conductances decay exactly, and V relaxes exponentially with the
mean of each conductance in the step. The potential is V, not that of the section: NetPyNE's vref. Above V_th it is
left to be seen until the next step, which resets it.
ENDCOMMENT

NEURON {
    POINT_PROCESS IafCondExp
    RANGE C_m, g_L, E_L, V_th, V_reset, t_ref, E_ex, E_in, tau_syn_ex, tau_syn_in, I_e, V_m
    RANGE V, g_ex, g_in, decay_ex, decay_in, mean_ex, mean_in, refractory
    THREADSAFE
}

PARAMETER {
    C_m = 250
    g_L = 16.6667
    E_L = -70
    V_th = -55
    V_reset = -60
    t_ref = 2
    E_ex = 0
    E_in = -85
    tau_syn_ex = 0.2
    tau_syn_in = 2
    I_e = 0
    V_m = -70 : at t = 0
}

ASSIGNED {
    dt
    V
    g_ex
    g_in
    decay_ex
    decay_in
    mean_ex
    mean_in
    refractory : steps that are left of it
}

INITIAL {
    V = V_m
    g_ex = 0
    g_in = 0
    refractory = 0
    decay_ex = exp(-dt / tau_syn_ex)
    decay_in = exp(-dt / tau_syn_in)
    mean_ex = (1 - decay_ex) * tau_syn_ex / dt
    mean_in = (1 - decay_in) * tau_syn_in / dt
}

BREAKPOINT {
    SOLVE advance
}

PROCEDURE advance() { LOCAL ex, in, g, V_inf
    if (V > V_th) {
        refractory = floor(t_ref / dt + 0.5)
        V = V_reset
    }
    if (refractory > 0) {
        refractory = refractory - 1
    } else {
        ex = g_ex * mean_ex
        in = g_in * mean_in
        g = g_L + ex + in
        V_inf = (g_L * E_L + ex * E_ex + in * E_in + I_e) / g
        V = V_inf + (V - V_inf) * exp(-dt * g / C_m)
    }
    g_ex = g_ex * decay_ex
    g_in = g_in * decay_in
}

NET_RECEIVE(weight) {
    if (weight > 0) {
        g_ex = g_ex + weight
    } else {
        g_in = g_in - weight
    }
}
