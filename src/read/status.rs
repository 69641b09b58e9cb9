//! What a running `run` says of itself: `state/status.json`, written by `run`, read by `shards` and `top`.
//!
//! It is for people and decides nothing: a file that is old or missing means that nobody is running or that it hangs. Owns: the
//! form, writing it in one step. Does not own: when it is written (the run).

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sluicebox_actors::model::fault::{Fault, Kind, Result};

use super::sources::cannot_read;

const PLACE: &str = "state/status.json";
/// A run that has not written for so long does not run: it writes four times a second.
const SILENCE_US: i64 = 10_000_000;

/// The whole run.
#[derive(Clone, Default, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct RunStatus {
    /// Process id.
    pub pid: u32,
    /// Host name.
    pub host: String,
    /// Version of the program.
    pub version: String,
    /// Start, microseconds since 1970.
    pub started_us: i64,
    /// When this was written, microseconds since 1970.
    pub updated_us: i64,
    /// Its shards.
    pub shards: Vec<ShardStatus>,
    /// Its Gold tables.
    pub gold: Vec<GoldStatus>,
    /// Its sinks.
    pub sinks: Vec<SinkStatus>,
    /// Names of the alerts that are on.
    pub alerts: Vec<String>,
}

/// One sink of a run.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct SinkStatus {
    /// Its name.
    pub sink: String,
    /// `feeding`, `waiting`, `quarantined`, `finished`, `behind`.
    pub state: String,
    /// Windows or letters that wait for it.
    pub waiting: u64,
    /// How long the oldest window has waited, milliseconds.
    pub lag_ms: u64,
    /// Shards read nothing until it has caught up.
    pub holds: bool,
    /// The last fault, as text without values.
    pub last_fault: Option<String>,
}

/// One shard of a run.
#[derive(Clone, Default, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct ShardStatus {
    /// Shard.
    pub shard: String,
    /// `running`, `restarting`, `quarantined`, `paused`, `drained`, …
    pub state: String,
    /// Restarts since the start.
    pub restarts: u64,
    /// The last fault, as text without values.
    pub last_fault: Option<String>,
    /// Bytes under credit.
    pub in_flight_bytes: u64,
    /// Bytes of the open epoch's aggregates.
    pub group_bytes: u64,
    /// Number of the epoch that is open.
    pub epoch_open: u64,
    /// Last sequence number read.
    pub position_read: Option<String>,
    /// How far reading lies behind the newest record (iterator age), milliseconds.
    pub behind_ms: Option<i64>,
    /// Records a second, lately.
    pub records_per_s: f64,
}

/// One Gold table of a run.
#[derive(Clone, Default, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct GoldStatus {
    /// Gold table.
    pub table: String,
    /// `running`, `restarting`, `quarantined`.
    pub state: String,
    /// Restarts since the start.
    pub restarts: u64,
    /// The last fault, as text without values.
    pub last_fault: Option<String>,
    /// Windows that are not sealed.
    pub windows_open: u64,
    /// The shard that holds the next window back.
    pub held_back_by: Option<String>,
    /// When a window was emitted last, microseconds since 1970.
    pub last_emitted_us: Option<i64>,
}

impl RunStatus {
    /// What the run on this data directory wrote last; none if none ever did.
    pub fn read(data: &Path) -> Result<Option<Self>> {
        let text = match std::fs::read(data.join(PLACE)) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(cannot_read(PLACE, &error)),
        };
        let parsed = serde_json::from_slice(&text);
        parsed
            .map(Some)
            .map_err(|error| Fault::caused(Kind::Corrupt, format!("{PLACE}; remove it, `run` writes it anew"), &error))
    }

    /// Replaces the file in one step. Not durable on purpose: it says what is, not what was.
    pub fn write(&self, data: &Path) -> Result<()> {
        let text = serde_json::to_vec(self).map_err(|error| Fault::caused(Kind::Bug, "the status as JSON", &error))?;
        let place = data.join(PLACE);
        let aside: PathBuf = place.with_file_name(".status.json.new");
        std::fs::write(&aside, text)
            .and_then(|()| std::fs::rename(&aside, &place))
            .map_err(|error| Fault::caused(Kind::Retry, format!("write {PLACE}"), &error))
    }

    /// Did its writer live a moment ago? Killed, it left the file as it was: its process is gone. Frozen, or with its number
    /// given to another process, it no longer writes.
    pub fn is_of_the_living(&self, now_us: i64) -> bool {
        let is_gone = Path::new("/proc/self").exists() && !Path::new("/proc").join(self.pid.to_string()).exists();
        !is_gone && now_us.saturating_sub(self.updated_us) < SILENCE_US
    }

    /// One shard of it.
    pub fn shard(&self, name: &str) -> Option<&ShardStatus> {
        self.shards.iter().find(|shard| shard.shard == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_of_the_living_while_its_process_lives_and_writes() {
        let own = RunStatus { pid: std::process::id(), updated_us: 1_000_000, ..Default::default() };
        assert!(own.is_of_the_living(2_000_000));
        assert!(!own.is_of_the_living(20_000_000), "it has been silent for long");
        // No process has this number: the kernel's limit lies below.
        assert!(!RunStatus { pid: u32::MAX, ..own }.is_of_the_living(2_000_000));
    }

    #[test]
    fn what_was_written_is_read_and_unknown_fields_of_a_newer_run_are_passed_over() {
        let data = tempfile::tempdir().unwrap();
        std::fs::create_dir(data.path().join("state")).unwrap();
        assert_eq!(RunStatus::read(data.path()).unwrap(), None);
        let shard = ShardStatus { shard: "s".into(), restarts: 2, ..Default::default() };
        let status = RunStatus { pid: 7, shards: vec![shard], ..Default::default() };
        status.write(data.path()).unwrap();
        assert_eq!(RunStatus::read(data.path()).unwrap(), Some(status.clone()));
        assert_eq!(status.shard("s").unwrap().restarts, 2);
        std::fs::write(data.path().join(PLACE), br#"{"pid":8,"new":1}"#).unwrap();
        assert_eq!(RunStatus::read(data.path()).unwrap().unwrap().pid, 8);
        std::fs::write(data.path().join(PLACE), b"{").unwrap();
        assert_eq!(RunStatus::read(data.path()).unwrap_err().kind(), Kind::Corrupt);
    }
}
