//! Kinesis in one process: a durable, sharded stream under a directory.
//!
//! Read [`embedded`] first. It is a package of its own, without the SQL engine, so that its tests compile in seconds.

mod batch;
mod catalog;
mod database;
pub mod embedded;
mod routing;
mod shard;
