//! AWS behind the ports: a package of its own, so that a change here does not build the SQL engine again.

pub mod client;
pub mod connect;
pub mod error;

/// Rows in DynamoDB.
pub mod dynamo {
    mod expression;
    mod item;
    pub mod rows;
    mod table;
}

/// Objects in S3.
pub mod s3 {
    pub mod blobs;
    pub mod multipart;
    mod probe;
    pub mod store;
}

#[cfg(test)]
mod fixtures;

/// The source: polling, KPL records taken apart.
pub mod kinesis {
    pub mod api;
    pub mod cursor;
    pub mod elapsed;
    #[cfg(test)]
    mod fixtures;
    pub mod kpl;
    pub mod pacer;
    pub mod sdk;
    pub mod source;
}
