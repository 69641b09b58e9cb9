//! The one integration binary of the root package.

mod engine {
    mod common;
    mod commute;
    mod statements;
    mod values;
    #[allow(clippy::disallowed_methods)]
    mod zz_speed;
}
