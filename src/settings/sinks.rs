//! `[[sink]]`: where Gold and letters are handed on to, beside their files.
//!
//! Owns: its keys, their defaults and contradictions. Does not own: the sinks (topology), what is due (sluicebox_actors).

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::check::Findings;
use super::{Interval, Settings, Size};

/// `[[sink]]`
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sink {
    /// Its name in rows, alerts and `sluicebox sinks`. A sink under a new name begins anew.
    pub name: String,
    /// Which kind of sink.
    pub kind: SinkKind,
    /// Gold tables; none = all (sinks of Gold).
    #[serde(default)]
    pub tables: Vec<String>,
    /// An alert when a window waits for so long (sinks of Gold).
    #[serde(default)]
    pub max_lag: Option<Interval>,
    /// A window is handed over whole, from memory: one of more stored bytes is refused (sinks of Gold).
    #[serde(default)]
    pub max_window: Option<Size>,
    /// An alert when more letters wait (sinks of letters).
    #[serde(default)]
    pub max_backlog: Option<u64>,
    /// What else happens then (sinks of letters).
    #[serde(default)]
    pub on_backlog: Option<OnBacklog>,
    /// A new sink gets the letters that were there before it, too (sinks of letters).
    #[serde(default)]
    pub replay_letters: bool,
    /// Database (Timestream).
    #[serde(default)]
    pub database: String,
    /// Table of the database (Timestream).
    #[serde(default)]
    pub table: String,
    /// Where line protocol is written to (Influx).
    #[serde(default)]
    pub url: String,
    /// Organisation (Influx).
    #[serde(default)]
    pub org: String,
    /// Bucket (Influx).
    #[serde(default)]
    pub bucket: String,
    /// Environment variable that holds the token (Influx).
    #[serde(default)]
    pub token_env: String,
    /// The queue (SQS).
    #[serde(default)]
    pub queue_url: String,
    /// A file that grows, relative to the data directory (file).
    #[serde(default)]
    pub path: String,
    /// What goes into it (file).
    #[serde(default)]
    pub takes: Option<Takes>,
}

/// A kind of sink.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SinkKind {
    /// Amazon Timestream for LiveAnalytics.
    Timestream,
    /// InfluxDB's line protocol, as Timestream for InfluxDB takes it.
    Influx,
    /// An Amazon SQS queue for letters.
    Sqs,
    /// A file of JSON lines that says what a sink is given.
    File,
}

/// What a sink of a kind that could take either is given.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Takes {
    /// Revisions of Gold.
    Gold,
    /// Dead letters.
    Letters,
}

/// What happens when more letters wait than may.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnBacklog {
    /// The alert, and nothing else: the letters are kept in `dlq/` anyway.
    Wait,
    /// Shards read nothing until half of them are gone.
    Pause,
}

impl Sink {
    /// What it is given.
    pub fn is_given(&self) -> Takes {
        match self.kind {
            SinkKind::Timestream | SinkKind::Influx => Takes::Gold,
            SinkKind::Sqs => Takes::Letters,
            SinkKind::File => self.takes.unwrap_or(Takes::Gold),
        }
    }

    /// An alert when a window waits for longer.
    pub fn lag(&self) -> Interval {
        self.max_lag.unwrap_or(Interval::from_secs(15 * 60))
    }

    /// Stored bytes of the largest window that it is given.
    pub fn window_max(&self) -> Size {
        self.max_window.unwrap_or(Size::from_mib(64))
    }

    /// An alert when more letters wait.
    pub fn backlog(&self) -> u64 {
        self.max_backlog.unwrap_or(100_000)
    }

    /// The keys of this kind: name, value, must it be there?
    fn own(&self) -> Vec<(&'static str, &str, bool)> {
        match self.kind {
            SinkKind::Timestream => vec![("database", &self.database, true), ("table", &self.table, true)],
            SinkKind::Influx => vec![
                ("url", &self.url, true),
                ("org", &self.org, false),
                ("bucket", &self.bucket, true),
                ("token_env", &self.token_env, false),
            ],
            SinkKind::Sqs => vec![("queue_url", &self.queue_url, true)],
            SinkKind::File => vec![("path", &self.path, true)],
        }
    }

    fn all(&self) -> [(&'static str, &str); 8] {
        [
            ("database", &self.database),
            ("table", &self.table),
            ("url", &self.url),
            ("org", &self.org),
            ("bucket", &self.bucket),
            ("token_env", &self.token_env),
            ("queue_url", &self.queue_url),
            ("path", &self.path),
        ]
    }

    fn check(&self, at: &str, findings: &mut Findings) {
        let own = self.own();
        let names: Vec<&str> = own.iter().map(|(name, _, _)| *name).collect();
        for (name, value, needed) in &own {
            if *needed {
                findings.not_blank(&format!("{at}.{name}"), value, example(name));
            }
        }
        for (name, value) in self.all() {
            if !value.is_empty() && !names.contains(&name) {
                let help = format!("remove it; this kind has {}", names.join(", "));
                findings.add(&format!("{at}.{name}"), "a sink of this kind has no such key", help);
            }
        }
        if self.takes.is_some() && self.kind != SinkKind::File {
            findings.add(&format!("{at}.takes"), "a sink of this kind takes one thing anyway", "remove it");
        }
        let (gold, letters) = (self.is_given() == Takes::Gold, self.is_given() == Takes::Letters);
        let misplaced = [
            ("tables", letters && !self.tables.is_empty(), "it is given letters and no Gold"),
            ("max_lag", letters && self.max_lag.is_some(), "it is given letters and no Gold: max_backlog is its limit"),
            ("max_window", letters && self.max_window.is_some(), "it is given letters and no Gold"),
            ("max_backlog", gold && self.max_backlog.is_some(), "it is given Gold and no letters: max_lag is its limit"),
            ("on_backlog", gold && self.on_backlog.is_some(), "it is given Gold and no letters: only letters can be too many"),
            ("replay_letters", gold && self.replay_letters, "it is given Gold and no letters"),
        ];
        for (key, _, why) in misplaced.iter().filter(|(_, wrong, _)| *wrong) {
            findings.add(&format!("{at}.{key}"), *why, "remove it");
        }
        if let Some(lag) = self.max_lag {
            findings.positive(&format!("{at}.max_lag"), lag, "15m");
        }
        if self.max_window.is_some_and(|most| most < Size::from_mib(1)) {
            let help = "write at least \"1MiB\"; \"64MiB\" is the default";
            findings.add(&format!("{at}.max_window"), "it would be given next to nothing", help);
        }
        if self.kind == SinkKind::Influx && !self.url.is_empty() && !self.url.starts_with("http") {
            findings.add(&format!("{at}.url"), format!("`{}` is no address", self.url), "write \"https://host:8086\"");
        }
    }
}

fn example(key: &str) -> &'static str {
    match key {
        "table" => "hourly",
        "url" => "https://influx.example:8086",
        "queue_url" => "https://sqs.eu-central-1.amazonaws.com/123456789012/letters",
        "path" => "handed_on.ndjson",
        _ => "sluicebox",
    }
}

impl Settings {
    pub(super) fn check_sinks(&self, findings: &mut Findings) {
        let mut names = BTreeSet::new();
        for (n, sink) in self.sink.iter().enumerate() {
            let at = format!("sink.{n}");
            findings.identifier(&format!("{at}.name"), &sink.name);
            findings.once(&format!("{at}.name"), &sink.name, &mut names, "a sink");
            for (m, table) in sink.tables.iter().enumerate() {
                if self.gold.iter().all(|gold| gold.name != *table) {
                    let known: Vec<&str> = self.gold.iter().map(|gold| gold.name.as_str()).collect();
                    let help = format!("write one of {}", known.join(", "));
                    findings.add(&format!("{at}.tables.{m}"), format!("there is no Gold table `{table}`"), help);
                }
            }
            sink.check(&at, findings);
        }
    }
}
