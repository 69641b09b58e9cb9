//! Which adapter stands behind each `[[sink]]`.
//!
//! Owns: from a sink's settings to what Gold or letters are handed on to. Does not own: the adapters (sluicebox_aws, store), what
//! is due (sluicebox_actors), tables that can't be fed by row (topology::compile).

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sluicebox_actors::model::fault::Result;
use sluicebox_actors::ports::{GoldSink, LetterSink};
use sluicebox_actors::shells::feed::{GoldOutlet, LetterOutlet, Sinks};
use sluicebox_aws::client::AwsRuntime;
use sluicebox_aws::connect::Aws;
use sluicebox_aws::http::HttpClient;
use sluicebox_aws::influx::sink::{CHUNK_BYTES, InfluxApi, InfluxOptions, InfluxSink, Token};
use sluicebox_aws::sqs::letters::{self, SqsOptions};
use sluicebox_aws::sqs::message::{MESSAGE_MAX, Sender};
use sluicebox_aws::timestream::sink::{self as timestream, TimestreamOptions};

use super::takes;
use crate::settings::{Loaded, OnBacklog, Settings, Sink, SinkKind, StoreKind, Takes};
use crate::store::sink_files::FileSink;
use crate::{run, source};

/// How long one call with lines may take.
const LINES: Duration = Duration::from_secs(30);

/// The sinks of a pipeline file, whose data directory this is. Calls nobody.
pub fn sinks(loaded: &Loaded, data: &Path) -> Result<Sinks> {
    let (settings, mut sinks, mut aws) = (&loaded.settings, Sinks::default(), None);
    for sink in &settings.sink {
        match sink.kind {
            SinkKind::File => {
                let file = Arc::new(FileSink::new(&sink.name, data.join(&sink.path)));
                match sink.is_given() {
                    Takes::Gold => sinks.gold.push(gold(settings, sink, file)),
                    Takes::Letters => sinks.letters.push(letters(sink, file)),
                }
            }
            SinkKind::Influx => sinks.gold.push(gold(settings, sink, Arc::new(influx(sink)?))),
            SinkKind::Timestream => {
                let options = TimestreamOptions {
                    name: sink.name.clone(),
                    database: sink.database.clone(),
                    table: Some(sink.table.clone()).filter(|table| !table.is_empty()),
                    pipeline: settings.pipeline.name.clone(),
                    pause: timestream::PAUSE,
                };
                sinks.gold.push(gold(settings, sink, Arc::new(connected(&mut aws, settings)?.timestream(options)?)));
            }
            SinkKind::Sqs => {
                let options = SqsOptions {
                    name: sink.name.clone(),
                    queue_url: sink.queue_url.clone(),
                    sender: Sender { pipeline: settings.pipeline.name.clone(), root: root(settings, data) },
                    message_max: MESSAGE_MAX,
                    pause: letters::PAUSE,
                };
                sinks.letters.push(letters(sink, Arc::new(connected(&mut aws, settings)?.queue(options)?)));
            }
        }
    }
    Ok(sinks)
}

/// One connection for all sinks that need one.
fn connected<'a>(aws: &'a mut Option<Aws>, settings: &Settings) -> Result<&'a Aws> {
    let found = match aws.take() {
        Some(found) => found,
        None => run::block_on(Aws::connect(&source::client(settings)))??,
    };
    Ok(aws.insert(found))
}

/// With an organisation it is version 2 of the API, without one version 1, where the bucket is the database.
fn influx(sink: &Sink) -> Result<InfluxSink> {
    let api = match sink.org.is_empty() {
        false => InfluxApi::V2 { org: sink.org.clone(), bucket: sink.bucket.clone() },
        true => InfluxApi::V1 { database: sink.bucket.clone() },
    };
    let token = if sink.token_env.is_empty() { None } else { Some(Token::of_variable(&sink.token_env)?) };
    let (name, url) = (sink.name.clone(), sink.url.clone());
    let options = InfluxOptions { name, url, api, token, measurement: None, chunk_bytes: CHUNK_BYTES, gzip: true };
    InfluxSink::new(HttpClient::new(AwsRuntime::start()?, LINES), options)
}

/// Where a letter's file lies, for people.
fn root(settings: &Settings, data: &Path) -> String {
    match settings.store.kind {
        StoreKind::Disk => data.display().to_string(),
        StoreKind::Aws => format!("s3://{}/{}", settings.store.bucket, settings.store_prefix()),
    }
}

fn gold(settings: &Settings, of: &Sink, sink: Arc<dyn GoldSink>) -> GoldOutlet {
    let tables = settings.gold.iter().enumerate().filter(|(_, gold)| takes(of, &gold.name)).map(|(table, _)| table).collect();
    GoldOutlet { sink, tables, max_lag_us: of.lag().us(), max_window: of.window_max().bytes() }
}

fn letters(of: &Sink, sink: Arc<dyn LetterSink>) -> LetterOutlet {
    let holds = of.on_backlog == Some(OnBacklog::Pause);
    LetterOutlet { sink, max_backlog: of.backlog(), holds, replay: of.replay_letters }
}
