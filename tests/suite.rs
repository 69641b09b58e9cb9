//! The whole-system tests of the root package, in one binary: each links the SQL engine, so there is one.

mod cli;
mod embedded_stream;
mod engine {
    mod decode_properties;
    mod differential;
    mod json_test_suite;
}
mod read {
    mod ports;
    mod queries;
    mod support;
    mod teeth;
}
mod settings;
mod tidy;
