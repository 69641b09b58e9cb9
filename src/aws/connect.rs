//! Clients of one process: one configuration, one set of threads, and a second of each for life signs.
//!
//! Owns: which client gets which connection. Does not own: how the configuration is found (client), what is asked (the
//! adapters).

use aws_config::SdkConfig;
use sluicebox_actors::model::fault::Result;

use crate::client::{self, AwsRuntime, ClientSettings};
use crate::dynamo::kcl::{self, KclLease};
use crate::dynamo::rows::DynamoRows;
use crate::s3::store::S3Store;
use crate::sqs::letters::{SqsLetters, SqsOptions};
use crate::timestream::client::WriteClient;
use crate::timestream::sink::{TimestreamOptions, TimestreamSink};

/// How this process speaks to AWS. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Aws {
    config: SdkConfig,
    io: AwsRuntime,
}

impl Aws {
    /// Finds the configuration and starts threads; calls nobody. Two of these share neither connections nor threads: a life
    /// sign that queues behind data says that its sender is dead.
    pub async fn connect(settings: &ClientSettings) -> Result<Self> {
        Ok(Self { config: client::load(settings).await?, io: AwsRuntime::start()? })
    }

    /// The threads.
    pub fn io(&self) -> &AwsRuntime {
        &self.io
    }

    /// Objects of a bucket under a prefix.
    pub fn objects(&self, bucket: &str, prefix: &str) -> Result<S3Store> {
        let config = aws_sdk_s3::config::Builder::from(&self.config);
        // Whatever stands in for S3 at an address of its own seldom has a name for each bucket.
        let config = config.force_path_style(self.is_elsewhere("S3")).build();
        S3Store::new(&aws_sdk_s3::Client::from_conf(config), self.io.clone(), bucket, prefix)
    }

    /// Rows and leases of a pipeline in a table.
    pub fn rows(&self, table: &str, pipeline: &str) -> Result<DynamoRows> {
        DynamoRows::new(&aws_sdk_dynamodb::Client::new(&self.config), self.io.clone(), table, pipeline)
    }

    /// The leases of a fleet of the Kinesis Client Library.
    pub async fn kcl_leases(&self, table: &str) -> Result<Vec<KclLease>> {
        kcl::leases(&aws_sdk_dynamodb::Client::new(&self.config), self.io.clone(), table).await
    }

    /// A sink of Gold rows in Timestream.
    pub fn timestream(&self, options: TimestreamOptions) -> Result<TimestreamSink> {
        TimestreamSink::new(WriteClient::new(&self.config), self.io.clone(), options)
    }

    /// A queue of letters.
    pub fn queue(&self, options: SqsOptions) -> Result<SqsLetters> {
        SqsLetters::new(&aws_sdk_sqs::Client::new(&self.config), self.io.clone(), options)
    }

    /// Is a service reached at an address that somebody has set, instead of AWS's own? The SDK's rules for the environment;
    /// addresses in a profile are not looked at.
    pub fn is_elsewhere(&self, service: &str) -> bool {
        let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        self.config.endpoint_url().is_some() || is_set("AWS_ENDPOINT_URL") || is_set(&format!("AWS_ENDPOINT_URL_{service}"))
    }
}
