//! Contradictions between settings that are each well formed.
//!
//! Owns: ranges, names and combinations that are refused, each with its key and remedy. Does not own: types and unknown keys
//! (decode), what SQL and schemas say (engine).

use std::collections::BTreeSet;

use super::{Interval, Settings, Size, Start, StreamKind, TimeFormat};

/// What is wrong with one key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// Dotted key: `gold.1.window.tumbling`.
    pub key: String,
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    pub help: String,
}

/// Most epochs of one shard whose objects may be uncollected.
const UNCOLLECTED_MAX: u32 = 256;

impl Settings {
    /// Everything that can't be meant, in the order of the sections. Empty means good.
    pub fn check(&self) -> Vec<Finding> {
        let mut findings = Findings(Vec::new());
        self.check_stream(&mut findings);
        self.check_store(&mut findings);
        self.check_event(&mut findings);
        self.check_silver(&mut findings);
        self.check_gold(&mut findings);
        self.check_commit(&mut findings);
        self.check_operation(&mut findings);
        self.check_observers(&mut findings);
        self.check_sinks(&mut findings);
        findings.0
    }

    fn check_stream(&self, findings: &mut Findings) {
        findings.name("pipeline.name", &self.pipeline.name);
        findings.name("stream.name", &self.stream.name);
        findings.range("stream.shards", u64::from(self.stream.shards), 1, 1_000);
        findings.range("stream.parallelism", u64::from(self.stream.parallelism), 1, 10);
        findings.range("stream.reads_per_second", u64::from(self.stream.reads_per_second), 1, 5);
        let fan_out = &self.stream.fan_out;
        let fine = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        if fan_out.len() > 128 || !fan_out.bytes().all(fine) {
            let message = format!("`{fan_out}` is no name of a consumer");
            findings.add("stream.fan_out", message, "write up to 128 of the characters a-z A-Z 0-9 - _ .; \"\" means polling");
        }
        if self.stream.kind == StreamKind::Embedded && !fan_out.is_empty() {
            let help = "remove fan_out, or set stream.kind = \"kinesis\"";
            findings.add("stream.fan_out", "only a Kinesis stream has consumers", help);
        }
        if self.stream.kind == StreamKind::Embedded && self.stream.start != Start::Horizon {
            let help = "remove start: an embedded stream holds what was put on it for this pipeline";
            findings.add("stream.start", "only a Kinesis stream can be begun anywhere but at its oldest record", help);
        }
    }

    fn check_event(&self, findings: &mut Findings) {
        let event = &self.event;
        findings.not_negative("event.disorder", event.disorder);
        findings.not_negative("event.max_future", event.max_future);
        if event.time.is_arrival() && event.time_format != TimeFormat::Rfc3339 {
            let message = format!("the arrival time is a time already; `{}` has nothing to read", event.time_format);
            findings.add("event.time_format", message, "remove time_format, or name the member that holds the time");
        }
        if event.time_format.has_own_zone() && event.time_zone.seconds() != 0 {
            let message = format!(
                "a time written as `{}` carries its own offset; `{}` would never be used",
                event.time_format, event.time_zone
            );
            findings.add("event.time_zone", message, "remove time_zone, or write time_format as a pattern without an offset");
        }
        if event.schema.as_os_str().is_empty() {
            findings.add("event.schema", "the path to the JSON Schema is empty", "write its path relative to this file");
        }
    }

    fn check_silver(&self, findings: &mut Findings) {
        findings.not_blank("silver.sql", &self.silver.sql, "SELECT * FROM events");
        let mut names = BTreeSet::new();
        for (n, filter) in self.silver.filter.iter().enumerate() {
            let key = format!("silver.filter.{n}.name");
            findings.identifier(&key, &filter.name);
            findings.not_blank(&format!("silver.filter.{n}.where"), &filter.condition, "amount > 0");
            if filter.name == "where" {
                findings.add(&key, "`where` is the name of the statement's own WHERE in the ledger", "choose another name");
            }
            findings.once(&key, &filter.name, &mut names, "a filter");
        }
        let mut columns = BTreeSet::new();
        for (n, column) in self.silver.partition_by.iter().enumerate() {
            let key = format!("silver.partition_by.{n}");
            findings.not_blank(&key, column, "country");
            findings.once(&key, column, &mut columns, "a column");
        }
    }

    fn check_gold(&self, findings: &mut Findings) {
        let mut names = BTreeSet::new();
        for (n, gold) in self.gold.iter().enumerate() {
            let name = format!("gold.{n}.name");
            findings.identifier(&name, &gold.name);
            findings.once(&name, &gold.name, &mut names, "a Gold table");
            findings.not_blank(&format!("gold.{n}.sql"), &gold.sql, "SELECT type, count(*) AS events FROM silver GROUP BY type");
            findings.positive(&format!("gold.{n}.window.tumbling"), gold.window.tumbling, "1h");
            findings.not_negative(&format!("gold.{n}.window.allowed_lateness"), gold.window.allowed_lateness);
            if let Some(wait) = gold.max_wait {
                findings.positive(&format!("gold.{n}.max_wait"), wait, "30m");
            }
        }
    }

    fn check_commit(&self, findings: &mut Findings) {
        let (commit, limits) = (&self.commit, &self.limits);
        findings.positive("commit.interval", commit.interval, "10s");
        if commit.size < limits.fetch {
            let message = format!("an epoch of {} could not hold one fetch of {} (limits.fetch)", commit.size, limits.fetch);
            findings.add("commit.size", message, format!("write at least {}, or a smaller limits.fetch", limits.fetch));
        }
        if limits.fetch.bytes() == 0 {
            findings.add("limits.fetch", "a fetch of nothing reads nothing", "write a size such as \"4MiB\"");
        }
        if limits.fetch.bytes() > limits.in_flight.bytes() / 2 {
            let message = format!(
                "a fetch of {} is more than half of limits.in_flight = {}: a shard could not fetch while it works",
                limits.fetch, limits.in_flight
            );
            findings.add("limits.fetch", message, "write a smaller fetch, or at least twice as much for in_flight");
        }
        findings.range("limits.fetch_records", u64::from(limits.fetch_records), 1, 1_000_000);
        findings.range("limits.open_files", u64::from(limits.open_files), 2, 4_096);
        if limits.group_memory < Size::from_mib(1) {
            let message = format!("epochs with aggregates of {} would be nothing but commits", limits.group_memory);
            findings.add("limits.group_memory", message, "write at least \"1MiB\"; \"128MiB\" is the default");
        }
        if limits.merge_memory < Size::from_mib(1) {
            let message = format!("a merge within {} would be nothing but small files", limits.merge_memory);
            findings.add("limits.merge_memory", message, "write at least \"1MiB\"; \"256MiB\" is the default");
        }
    }

    fn check_operation(&self, findings: &mut Findings) {
        let restart = &self.restart;
        findings.positive("restart.backoff_min", restart.backoff_min, "200ms");
        findings.positive("restart.period", restart.period, "60s");
        if restart.backoff_max < restart.backoff_min {
            let message =
                format!("the longest pause, {}, is shorter than the first, {}", restart.backoff_max, restart.backoff_min);
            findings.add("restart.backoff_max", message, format!("write {} or more", restart.backoff_min));
        }
        let breaker = &self.breaker;
        if !(breaker.share > 0.0 && breaker.share <= 1.0) {
            let message = format!("{} is not a share of records", breaker.share);
            findings.add("breaker.share", message, "write a number above 0 and up to 1, or enabled = false");
        }
        findings.range("breaker.window", u64::from(breaker.window), 10, 1_000_000);
        findings.range("collect.after_epochs", u64::from(self.collect.after_epochs), 1, u64::from(UNCOLLECTED_MAX));
        findings.not_negative("collect.repair_for", self.collect.repair_for);
    }
}

pub(super) struct Findings(Vec<Finding>);

impl Findings {
    pub(super) fn add(&mut self, key: &str, message: impl Into<String>, help: impl Into<String>) {
        self.0.push(Finding { key: key.to_owned(), message: message.into(), help: help.into() });
    }

    fn range(&mut self, key: &str, value: u64, least: u64, most: u64) {
        if value < least || value > most {
            self.add(key, format!("{value} is out of range"), format!("write a number from {least} to {most}"));
        }
    }

    pub(super) fn positive(&mut self, key: &str, value: Interval, example: &str) {
        if value.us() <= 0 {
            self.add(
                key,
                format!("{value} is not a length of time to wait or to fill"),
                format!("write more than zero, such as \"{example}\""),
            );
        }
    }

    fn not_negative(&mut self, key: &str, value: Interval) {
        if value.us() < 0 {
            self.add(key, format!("{value} is negative"), "write \"0s\" or more");
        }
    }

    pub(super) fn not_blank(&mut self, key: &str, text: &str, example: &str) {
        if text.trim().is_empty() {
            self.add(key, "there is nothing in it", format!("write, for example: {example}"));
        }
    }

    pub(super) fn once<'a>(&mut self, key: &str, name: &'a str, seen: &mut BTreeSet<&'a str>, what: &str) {
        if !seen.insert(name) {
            self.add(key, format!("{what} named `{name}` stands above already"), "give each a name of its own");
        }
    }

    pub(super) fn identifier(&mut self, key: &str, name: &str) {
        let good =
            name.starts_with(|c: char| c.is_ascii_lowercase()) && name.chars().all(|c| matches!(c, 'a'..='z' | '0'..='9' | '_'));
        if !good || name.len() > 64 {
            let help = "use small letters, digits and _, a letter first, up to 64: it becomes a folder and a name in SQL";
            self.add(key, format!("`{name}` cannot be a name here"), help);
        }
    }

    pub(super) fn name(&mut self, key: &str, name: &str) {
        let good = name.starts_with(|c: char| c.is_ascii_alphanumeric())
            && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'));
        if !good || name.len() > 128 {
            let help = "use letters, digits, _ - and ., a letter or digit first, up to 128: it becomes a part of file names";
            self.add(key, format!("`{name}` cannot be a name here"), help);
        }
    }
}
