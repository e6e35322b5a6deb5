COMMENT
A spike moves the potential of a section of capacitance cap at once, by its weight [mV]: by a current in the step in which
it arrives.
ENDCOMMENT

NEURON {
    POINT_PROCESS Jump
    RANGE cap, arrived
    NONSPECIFIC_CURRENT i
    THREADSAFE
}

UNITS {
    (nA) = (nanoamp)
    (mV) = (millivolt)
}

PARAMETER {
    cap = 0.1 (nanofarad)
}

ASSIGNED {
    arrived (mV)
    i (nA)
}

INITIAL {
    arrived = 0
}

BREAKPOINT {
    SOLVE forget
    i = -cap * arrived / dt
}

PROCEDURE forget() { : when the step is done
    arrived = 0
}

NET_RECEIVE (weight (mV)) {
    arrived = arrived + weight
}
