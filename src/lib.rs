//! sluicebox: turn a stream of JSON events into hourly numbers you can prove.

pub mod clock;

/// Rows, objects and tables on a local disk.
pub mod store {
    pub mod blobs;
    mod disk;
    pub mod home;
    pub mod rows;
    mod sqlite;
}
