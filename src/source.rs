//! The stream that a pipeline file names, whichever kind it is.
//!
//! Owns: opening it, what only one kind can do. Does not own: the kinds themselves (sluicebox_stream, sluicebox_aws).

use std::path::Path;
use std::sync::Arc;

use sluicebox_actors::model::fault::{Fault, Result};
use sluicebox_actors::model::position::Position;
use sluicebox_actors::ports::{Clock, Stream};
use sluicebox_aws::client::{self, AwsRuntime, ClientSettings};
use sluicebox_aws::kinesis::sdk::SdkApi;
use sluicebox_aws::kinesis::source::{self as kinesis, KinesisStream};
use sluicebox_stream::embedded::EmbeddedStream;

use crate::run;
use crate::settings::{Settings, Start, StreamKind};

/// An opened stream.
#[derive(Clone)]
pub enum Source {
    /// In the data directory.
    Embedded(EmbeddedStream),
    /// Amazon Kinesis Data Streams, or whatever speaks its API at the endpoint.
    Kinesis(KinesisStream),
}

impl Source {
    /// Opens it to look at it, or to put; an embedded stream is made with the configured number of shards if there is none. A
    /// consumer of enhanced fan-out has one reader, which is the run: whoever looks beside it polls.
    pub fn open(data: &Path, settings: &Settings, clock: Arc<dyn Clock>) -> Result<Self> {
        Self::with(data, settings, clock, None)
    }

    /// Opens it to read it as the settings say.
    pub fn for_run(data: &Path, settings: &Settings, clock: Arc<dyn Clock>) -> Result<Self> {
        let fan_out = Some(settings.stream.fan_out.as_str()).filter(|name| !name.is_empty());
        Self::with(data, settings, clock, fan_out.map(Arc::from))
    }

    fn with(data: &Path, settings: &Settings, clock: Arc<dyn Clock>, fan_out: Option<Arc<str>>) -> Result<Self> {
        let stream = &settings.stream;
        match stream.kind {
            StreamKind::Embedded => {
                let root = data.join("stream");
                EmbeddedStream::open_or_create(&root, &stream.name, stream.shards as usize, clock).map(Self::Embedded)
            }
            StreamKind::Kinesis => {
                let config = run::block_on(client::load(&client(settings)))??;
                let api = SdkApi::new(aws_sdk_kinesis::Client::new(&config), stream.name.as_str());
                let reads_a_second = stream.reads_per_second;
                let reading = kinesis::Settings { reads_a_second, fan_out, ..kinesis::Settings::default() };
                let stream = KinesisStream::new(&stream.name, Arc::new(api), AwsRuntime::start()?, clock, reading);
                Ok(Self::Kinesis(stream))
            }
        }
    }

    /// The embedded stream, for verbs that write to it or look into it.
    pub fn embedded(self, verb: &str) -> Result<EmbeddedStream> {
        match self {
            Self::Embedded(stream) => Ok(stream),
            Self::Kinesis(_) => Err(Fault::config(format!(
                "`{verb}` writes to the embedded stream, and stream.kind is \"kinesis\": put records with an AWS SDK or the AWS \
                 CLI (`aws kinesis put-records`), or set stream.kind = \"embedded\""
            ))),
        }
    }

    /// The Kinesis stream, for verbs that take over from another reader of it.
    pub fn kinesis(self, verb: &str) -> Result<KinesisStream> {
        match self {
            Self::Kinesis(stream) => Ok(stream),
            Self::Embedded(_) => Err(Fault::config(format!(
                "`{verb}` wants the stream that the other fleet reads: set stream.kind = \"kinesis\" and stream.name"
            ))),
        }
    }

    /// As the port.
    pub fn port(&self) -> Arc<dyn Stream> {
        match self {
            Self::Embedded(stream) => Arc::new(stream.clone()),
            Self::Kinesis(stream) => Arc::new(stream.clone()),
        }
    }

    /// Records so far, where numbers are dense.
    pub fn records(&self) -> Result<Option<u64>> {
        let Self::Embedded(stream) = self else { return Ok(None) };
        let mut sum = 0;
        for info in stream.shards_blocking()? {
            sum += stream.stats(&info.shard)?.last.and_then(|last| last.as_dense()).unwrap_or(0);
        }
        Ok(Some(sum))
    }
}

/// How AWS is reached.
pub fn client(settings: &Settings) -> ClientSettings {
    let (region, endpoint) = (settings.aws.region.clone(), settings.aws.endpoint.clone());
    ClientSettings { region, endpoint, ..ClientSettings::default() }
}

/// Where shards begin that no run has seen. "Latest" is the moment when the data directory was made, the same at every start: to
/// ask anew each time would lose what came in between.
pub fn start(start: Start, created_us: i64) -> Position {
    match start {
        Start::Horizon => Position::START,
        Start::Latest => Position::arrival(created_us),
        Start::At(at_us) => Position::arrival(at_us),
    }
}
