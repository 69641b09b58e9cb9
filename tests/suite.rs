//! The one integration binary of the root package.

mod engine {
    mod common;
    mod commute;
    mod glue;
    mod statements;
    mod values;
}
