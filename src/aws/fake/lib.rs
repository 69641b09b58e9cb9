//! DynamoDB and S3 on a loopback port, with faults to order: what no emulator does, and what the tests of the adapters need.
//!
//! Read [`faults`] first, then [`dynamo`] and [`s3`]. Both fakes are strongly atomic (one mutex each) and keep nothing on
//! disk. The contract tests of `sluicebox-aws` run against them and, on request, against an emulator, so that they do not
//! drift.

pub mod dynamo;
pub mod faults;
pub mod s3;
mod server;
