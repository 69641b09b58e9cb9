//! The whole system's tests, one binary.

mod read {
    mod ports;
    mod queries;
    mod support;
    mod teeth;
}
