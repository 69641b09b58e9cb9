//! Gold in whatever takes InfluxDB's line protocol over HTTP: InfluxDB, Timestream for InfluxDB, VictoriaMetrics, QuestDB.
//!
//! A line with the same measurement, tags and timestamp overwrites the fields of the one before, so **the last write wins** and
//! not the newest revision: revisions of a window have to be handed over in order, as the feed does. A field that a newer
//! revision leaves out (NULL) keeps its former value: InfluxDB merges fields. What takes lines and does not overwrite
//! (VictoriaMetrics, QuestDB without DEDUP) keeps every revision; `revision` tells them apart there.
//!
//! Owns: bodies and calls, what each answer means. Does not own: lines (line), HTTP (http), when a revision is
//! handed on (machines/feed).

use std::fmt;
use std::io::Write;

use async_trait::async_trait;
use flate2::Compression;
use flate2::write::GzEncoder;
use sluicebox_actors::model::fault::{Fault, Kind, Result};
use sluicebox_actors::ports::{Fed, GoldRevision, GoldSink};

use super::line;
use crate::http::{Address, Answer, HttpClient, Secret};
use crate::revision::{self, Progress, Rows};

/// Bytes of lines that one call takes, unless the settings say otherwise.
pub const CHUNK_BYTES: usize = 1 << 20;

/// Which of the two APIs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum InfluxApi {
    /// `/api/v2/write`: InfluxDB 2 and 3, Timestream for InfluxDB.
    V2 {
        /// The organisation.
        org: String,
        /// The bucket.
        bucket: String,
    },
    /// `/write`: InfluxDB 1, VictoriaMetrics, QuestDB. The token is `user:password` there.
    V1 {
        /// The database.
        database: String,
    },
}

/// The token, and the variable it came from, which faults name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Token {
    /// Environment variable.
    pub variable: String,
    /// Its value.
    pub secret: Secret,
}

impl Token {
    /// From the environment.
    pub fn of_variable(variable: &str) -> Result<Self> {
        Ok(Self { variable: variable.to_owned(), secret: Secret::of_variable(variable)? })
    }
}

/// What a sink is made with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InfluxOptions {
    /// Name in the settings.
    pub name: String,
    /// Where it is.
    pub url: String,
    /// Which API.
    pub api: InfluxApi,
    /// How to show who we are; none = not at all.
    pub token: Option<Token>,
    /// Name of the measurement; none = the Gold table's name.
    pub measurement: Option<String>,
    /// Bytes of lines that one call takes, before compression.
    pub chunk_bytes: usize,
    /// Compress bodies?
    pub gzip: bool,
}

/// A sink of Gold rows.
pub struct InfluxSink {
    http: HttpClient,
    write: Address,
    headers: Vec<(&'static str, String)>,
    options: InfluxOptions,
    progress: Progress,
}

// The headers hold the token.
impl fmt::Debug for InfluxSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InfluxSink").field("options", &self.options).finish_non_exhaustive()
    }
}

/// Lines of a body that are written together, and what became of them.
enum Told {
    Stored,
    /// So many of them were dropped, the others stored.
    Partly(u64),
    /// One of them at least can't be taken, and nobody says which.
    Refused,
}

impl InfluxSink {
    /// Calls nobody.
    pub fn new(http: HttpClient, options: InfluxOptions) -> Result<Self> {
        let base = Address::parse(&options.url)?;
        let (write, scheme) = match &options.api {
            InfluxApi::V2 { org, bucket } => {
                (base.with("/api/v2/write", &[("org", org), ("bucket", bucket), ("precision", "us")]), "Token")
            }
            InfluxApi::V1 { database } => (base.with("/write", &[("db", database), ("precision", "u")]), "Basic"),
        };
        let mut headers = vec![("content-type", "text/plain; charset=utf-8".to_owned())];
        if let Some(token) = &options.token {
            let shown = match &options.api {
                InfluxApi::V2 { .. } => token.secret.reveal().to_owned(),
                InfluxApi::V1 { .. } => aws_smithy_types::base64::encode(token.secret.reveal()),
            };
            headers.push(("authorization", format!("{scheme} {shown}")));
        }
        if options.gzip {
            headers.push(("content-encoding", "gzip".to_owned()));
        }
        Ok(Self { http, write, headers, options, progress: Progress::default() })
    }

    /// Writes lines until each is stored or refused for good.
    async fn settle(&self, lines: &[String]) -> Result<Fed> {
        let mut fed = Fed::default();
        let mut open = if lines.is_empty() { Vec::new() } else { vec![lines] };
        while let Some(part) = open.pop() {
            match self.send(part).await? {
                Told::Stored => fed.stored += part.len() as u64,
                Told::Partly(dropped) => {
                    let dropped = dropped.min(part.len() as u64);
                    fed.stored += part.len() as u64 - dropped;
                    revision::refuse(&mut fed, "dropped", dropped);
                }
                // Halves find it; what is written twice is the same.
                Told::Refused if part.len() > 1 => {
                    let (first, second) = part.split_at(part.len() / 2);
                    open.extend([second, first]);
                }
                Told::Refused => revision::refuse(&mut fed, "refused", 1),
            }
        }
        Ok(fed)
    }

    async fn send(&self, lines: &[String]) -> Result<Told> {
        let body = lines.concat().into_bytes();
        let body = if self.options.gzip { gzip(&body)? } else { body };
        let answer = self.http.post(&self.write, &self.headers, body).await?;
        let (name, status) = (&self.options.name, answer.status);
        match status {
            200..300 => Ok(Told::Stored),
            400 | 422 => Ok(dropped(&answer).map_or(Told::Refused, Told::Partly)),
            413 => Ok(Told::Refused),
            401 | 403 => {
                let remedy = match &self.options.token {
                    Some(token) => format!("look at the token in {}, which must be allowed to write there", token.variable),
                    None => "it wants a token: name the environment variable that holds it".to_owned(),
                };
                Err(Fault::config(format!("sink {name}: {} answers HTTP {status}: {remedy}", self.write)))
            }
            408 | 425 | 429 | 500.. => {
                let asked = answer.retry_after.map_or(String::new(), |pause| format!(" and asks for a pause of {pause:?}"));
                // The caller's own pause comes on top.
                tokio::time::sleep(answer.retry_after.unwrap_or_default()).await;
                Err(Fault::retry(format!("sink {name}: {} answers HTTP {status}{asked}", self.write)))
            }
            _ => Err(Fault::config(format!(
                "sink {name}: {} answers HTTP {status}: correct the url, and the database, or organisation and bucket",
                self.write
            ))),
        }
    }
}

#[async_trait]
impl GoldSink for InfluxSink {
    fn name(&self) -> &str {
        &self.options.name
    }

    async fn feed(&self, revision: &GoldRevision) -> Result<Fed> {
        let rows = Rows::of(revision)?;
        let measurement = self.options.measurement.as_deref().unwrap_or(&revision.table);
        line::check(&rows, measurement)?;
        let (mut next, mut fed) = self.progress.resume(revision);
        while next < rows.len() {
            let (mut lines, mut bytes, mut done, mut end) = (Vec::new(), 0, Fed::default(), next);
            while end < rows.len() {
                match line::line(&rows.row(end), revision, measurement) {
                    // A line that is longer than a body by itself goes alone.
                    Some(text) if bytes + text.len() > self.options.chunk_bytes && !lines.is_empty() => break,
                    Some(text) => {
                        bytes += text.len();
                        lines.push(text);
                    }
                    None => revision::refuse(&mut done, line::NO_TAG, 1),
                }
                end += 1;
            }
            match self.settle(&lines).await {
                Ok(settled) => revision::add(&mut done, settled),
                Err(fault) => {
                    self.progress.keep(revision, next, fed);
                    return Err(fault);
                }
            }
            revision::add(&mut fed, done);
            next = end;
        }
        Ok(fed)
    }
}

fn gzip(body: &[u8]) -> Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    let packed = encoder.write_all(body).and_then(|()| encoder.finish());
    packed.map_err(|error| Fault::caused(Kind::Bug, "compressing lines", &error))
}

/// How many lines an answer says were dropped while the others were stored: `partial write: … dropped=2` (InfluxDB 1 and 2), or
/// a list of the bad ones (3).
fn dropped(answer: &Answer) -> Option<u64> {
    let body: serde_json::Value = serde_json::from_slice(&answer.body).ok()?;
    let words = ["message", "error"].iter().find_map(|key| body[*key].as_str()).unwrap_or_default();
    if !words.contains("partial write") {
        return None;
    }
    let count = words.split_once("dropped=").map(|(_, rest)| rest.chars().take_while(char::is_ascii_digit).collect::<String>());
    count.and_then(|count| count.parse().ok()).or_else(|| body["data"].as_array().map(|bad| bad.len() as u64))
}
