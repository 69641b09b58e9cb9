//! sluicebox: turn a stream of JSON events into hourly numbers you can prove.

pub mod clock;

/// From bytes to Silver rows to Gold.
pub mod engine {
    /// Aggregates whose states commute to the bit.
    pub mod aggregates {
        pub(crate) mod buckets;
        pub(crate) mod cells;
        pub(crate) mod distinct;
        pub(crate) mod doubles;
        pub(crate) mod exact;
        pub(crate) mod extremes;
        pub(crate) mod firsts;
        pub(crate) mod hll;
        pub(crate) mod quantiles;
        pub(crate) mod sums;
        pub mod udaf;
    }

    pub mod glue;

    /// The Silver and Gold statements.
    pub mod sql {
        pub mod check;
        pub mod error;
        pub mod functions;
        pub mod gold;
        pub(crate) mod groups;
        pub mod lower;
        pub(crate) mod plan;
        pub mod silver;
    }
}
