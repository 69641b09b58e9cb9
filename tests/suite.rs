//! The one integration binary of the root package.

mod engine {
    mod decode_properties;
    mod differential;
    mod json_test_suite;
}
