//! DynamoDB, S3 and what sinks write to (Timestream, InfluxDB, SQS, SNS, CloudWatch, webhooks) on a loopback port, with faults
//! to order: what no emulator does, and what the tests of the adapters need.
//!
//! Read [`faults`] first, then [`dynamo`], [`s3`] and the others. All fakes are strongly atomic (one mutex each), assert AWS's
//! limits, and keep nothing on disk. The contract tests of `sluicebox-aws` run against them and, on request, against an emulator,
//! so that they do not drift.

pub mod cloudwatch;
pub mod dynamo;
pub mod faults;
pub mod influx;
mod json;
pub mod kpl;
pub mod s3;
pub mod server;
pub mod sns;
pub mod sqs;
pub mod timestream;
pub mod webhook;
