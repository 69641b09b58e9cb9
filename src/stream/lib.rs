//! Kinesis in one process: a durable, sharded stream under a directory.
//!
//! Read [`embedded`] first; [`api`] puts the Kinesis API on it. It is a package of its own, without the SQL engine, so that
//! its tests compile in seconds.

pub mod api;
mod batch;
mod catalog;
mod database;
pub mod embedded;
mod routing;
mod shard;
