//! AWS behind the ports: a package of its own, so that a change here does not build the SQL engine again.

pub mod client;
pub mod connect;
pub mod error;
pub mod http;
mod revision;

/// Gold rows in Timestream.
pub mod timestream {
    pub mod client;
    mod records;
    pub mod sink;
    #[cfg(test)]
    mod tests;
}

/// Gold rows in whatever takes line protocol.
pub mod influx {
    mod line;
    pub mod sink;
    #[cfg(test)]
    mod tests;
}

/// Who is told of alerts.
pub mod alerts {
    pub mod sns;
    #[cfg(test)]
    mod tests;
    pub mod webhook;
}

/// Numbers of the pipeline in CloudWatch.
pub mod cloudwatch {
    pub mod metering;
    pub mod metrics;
    #[cfg(test)]
    mod tests;
}

/// Letters in SQS.
pub mod sqs {
    pub mod letters;
    pub mod message;
    #[cfg(test)]
    mod tests;
}

/// Rows in DynamoDB.
pub mod dynamo {
    mod expression;
    mod item;
    pub mod kcl;
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
