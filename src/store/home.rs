//! The data directory: whose it is, what lies where, and that only one run works in it.
//!
//! Owns: the pipeline's identity on both sides (state and outputs), the run lock, the folders' names. Does not own: the
//! contents of any folder (the other files here), the embedded stream's folder `stream/` (src/stream).

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sluicebox_actors::model::fault::{Fault, Kind, Result};
use sluicebox_actors::ports::Clock;

use super::disk::{self, Created, Disk};

/// Folders that readers see.
pub const VISIBLE: [&str; 6] = ["bronze", "silver", "gold", "gold_windows", "ledger", "dlq"];

const STATE: &str = "state";
const IDENTITY: &str = "state/identity.json";
const MARKER: &str = ".sluicebox.json";
const LOCK: &str = "state/run.lock";
const ROWS: &str = "state/rows.db";
/// Format of a directory or a bucket.
pub const FORMAT: u32 = 1;

/// Whose directory it is. State and output root both carry it; a rebuilt pipeline is a new one.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Identity {
    /// Unique: `<name>-<16 hexadecimal digits>`.
    pub pipeline: String,
    /// Name of the pipeline, as in its file.
    pub name: String,
    /// When it was made, microseconds since 1970. Versions sent to sinks start with it.
    pub created_us: i64,
    /// Format of the directory.
    pub format: u32,
}

/// An opened data directory.
#[derive(Clone)]
pub struct Home {
    disk: Arc<Disk>,
    identity: Identity,
}

/// Held while a run works in the directory; the operating system lets go of it when the process ends, however it ends.
#[derive(Debug)]
pub struct RunLock {
    _file: File,
}

/// What the lock file says about its holder.
#[derive(Serialize, Deserialize)]
struct Holder {
    pid: u32,
    host: String,
    started: String,
}

impl Home {
    /// Opens the directory, or makes it if there is nothing of a pipeline in it. Half of one, another's, or
    /// a newer format is refused.
    pub fn open_or_create(data: &Path, pipeline_name: &str, clock: Arc<dyn Clock>) -> Result<Self> {
        std::fs::create_dir_all(data).map_err(|error| disk::io_fault("making the data directory", data, &error))?;
        let disk = Arc::new(Disk::new(absolute(data)?, clock));
        let identity = match identity(&disk, Half::Finish)? {
            Some(identity) => identity,
            None => create(&disk, pipeline_name)?,
        };
        if identity.name != pipeline_name {
            return Err(Fault::config(format!(
                "{} belongs to the pipeline `{}`, not to `{pipeline_name}`: name another directory with --data",
                data.display(),
                identity.name
            )));
        }
        Ok(Self { disk, identity })
    }

    /// Opens an existing directory and makes nothing: for commands beside a run.
    pub fn open(data: &Path, clock: Arc<dyn Clock>) -> Result<Self> {
        let nothing = || {
            let data = data.display();
            Fault::config(format!("there is no pipeline in {data}: start one with `run`, or name its directory with --data"))
        };
        if !data.is_dir() {
            return Err(nothing());
        }
        let disk = Arc::new(Disk::new(absolute(data)?, clock));
        let identity = identity(&disk, Half::LeaveAlone)?.ok_or_else(nothing)?;
        Ok(Self { disk, identity })
    }

    /// Takes the directory for a run. A second one is refused with the name of the first.
    pub fn lock_for_run(&self) -> Result<RunLock> {
        let path = self.disk.root().join(LOCK);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(|error| disk::io_fault("opening the lock", &path, &error))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(self.taken(&mut file)),
            Err(TryLockError::Error(error)) => return Err(disk::io_fault("locking", &path, &error)),
        }
        let started = chrono::DateTime::from_timestamp_micros(self.disk.clock().now_us())
            .map(|at| at.to_rfc3339_opts(chrono::SecondsFormat::Secs, true));
        let holder = Holder { pid: std::process::id(), host: host(), started: started.unwrap_or_default() };
        let text = serde_json::to_vec(&holder).map_err(|error| Fault::bug(format!("run lock: {error}")))?;
        file.set_len(0)
            .and_then(|()| file.write_all(&text))
            .map_err(|error| disk::io_fault("writing the lock", &path, &error))?;
        self.disk.sweep()?;
        Ok(RunLock { _file: file })
    }

    fn taken(&self, file: &mut File) -> Fault {
        let mut text = String::new();
        // Whoever holds it may not have written its name yet; the refusal stands either way.
        let holder = file.read_to_string(&mut text).ok().and_then(|_| serde_json::from_str::<Holder>(&text).ok());
        let who = match holder {
            Some(holder) => format!("process {} on {} since {}", holder.pid, holder.host, holder.started),
            None => "another process that has just started".to_owned(),
        };
        Fault::config(format!(
            "{} is being run by {who}: stop that one first, or name another directory with --data",
            self.disk.root().display()
        ))
    }

    /// Whose directory it is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The data directory, absolute.
    pub fn data(&self) -> &Path {
        self.disk.root()
    }

    /// Where the rows lie.
    pub fn rows_path(&self) -> PathBuf {
        self.disk.root().join(ROWS)
    }

    pub(crate) fn disk(&self) -> &Arc<Disk> {
        &self.disk
    }
}

fn absolute(data: &Path) -> Result<PathBuf> {
    std::fs::canonicalize(data).map_err(|error| disk::io_fault("finding the data directory", data, &error))
}

/// What to do about a directory that was made by half.
#[derive(Clone, Copy)]
enum Half {
    /// Whoever runs makes the rest.
    Finish,
    /// Whoever only looks writes nothing: a run may be making it right now.
    LeaveAlone,
}

/// The identity if both sides carry the same one, none if there is nothing at all. Everything between is refused.
fn identity(disk: &Disk, half: Half) -> Result<Option<Identity>> {
    let root = disk.root().display();
    let (state, outputs) = (load(disk, IDENTITY)?, load(disk, MARKER)?);
    match (state, outputs) {
        (Some(state), Some(outputs)) if state == outputs => Ok(Some(state)),
        (Some(state), Some(outputs)) => Err(Fault::config(format!(
            "state and outputs in {root} belong to different pipelines ({} and {}): restore the one that belongs there, or name \
             a new directory with --data",
            state.pipeline, outputs.pipeline
        ))),
        (None, Some(outputs)) => Err(Fault::config(format!(
            "{root} holds outputs of the pipeline {} but not its state: restore {STATE}/ from where it went, or name a new \
             directory with --data (starting afresh here would count everything twice)",
            outputs.pipeline
        ))),
        // A creation that died half way, or is under way; it has done nothing else yet.
        (Some(state), None) if !has_outputs(disk)? && !has_state(disk)? => match half {
            Half::Finish => {
                write(disk, MARKER, &state)?;
                Ok(Some(state))
            }
            Half::LeaveAlone => Ok(None),
        },
        (Some(state), None) => Err(Fault::config(format!(
            "{root} holds the state of the pipeline {} but its outputs do not carry {MARKER}: restore them, or name a new \
             directory with --data",
            state.pipeline
        ))),
        (None, None) if has_outputs(disk)? || has_state(disk)? => Err(Fault::config(format!(
            "{root} holds outputs or state of a pipeline but neither {IDENTITY} nor {MARKER}: restore both, or name a new \
             directory with --data"
        ))),
        (None, None) => Ok(None),
    }
}

fn create(disk: &Disk, name: &str) -> Result<Identity> {
    let state = disk.root().join(STATE);
    private_dir(&state)?;
    let identity = Identity {
        pipeline: format!("{name}-{}", disk.random_name()),
        name: name.to_owned(),
        created_us: disk.clock().now_us(),
        format: FORMAT,
    };
    // Two that start at once agree on whichever came first.
    let identity = match write(disk, IDENTITY, &identity)? {
        Created::New => identity,
        Created::Existing => load(disk, IDENTITY)?.ok_or_else(|| Fault::retry("the identity vanished while starting"))?,
    };
    write(disk, MARKER, &identity)?;
    Ok(identity)
}

fn private_dir(dir: &Path) -> Result<()> {
    let mut builder = DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    match builder.create(dir) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(disk::io_fault("making the directory", dir, &error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn write(disk: &Disk, key: &str, identity: &Identity) -> Result<Created> {
    let text = serde_json::to_vec_pretty(identity).map_err(|error| Fault::bug(format!("identity: {error}")))?;
    disk.create(&disk.path(key, Kind::Bug)?, &text)
}

fn load(disk: &Disk, key: &str) -> Result<Option<Identity>> {
    let path = disk.path(key, Kind::Bug)?;
    let Some(text) = disk::read(&path)? else { return Ok(None) };
    let identity: Identity = serde_json::from_slice(&text).map_err(|error| {
        let message = format!("{} cannot be read: restore it from its copy ({IDENTITY} and {MARKER} are equal)", path.display());
        Fault::caused(Kind::Corrupt, message, &error)
    })?;
    if identity.format > FORMAT {
        return Err(Fault::config(format!(
            "{} has format {}, this program knows up to {FORMAT}: use the newer program",
            path.display(),
            identity.format
        )));
    }
    Ok(Some(identity))
}

fn has_outputs(disk: &Disk) -> Result<bool> {
    for folder in VISIBLE {
        if !disk::entries(&disk.root().join(folder))?.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}

fn has_state(disk: &Disk) -> Result<bool> {
    let own = |name: &str| matches!(name, "identity.json" | "tmp" | "run.lock");
    Ok(disk::entries(&disk.root().join(STATE))?.iter().any(|(name, _)| !own(name)))
}

fn host() -> String {
    let from_kernel = std::fs::read_to_string("/proc/sys/kernel/hostname").ok().map(|name| name.trim().to_owned());
    from_kernel.or_else(|| std::env::var("HOSTNAME").ok()).unwrap_or_else(|| "this machine".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;

    fn home(data: &Path) -> Result<Home> {
        Home::open_or_create(data, "clicks", SystemClock::shared())
    }

    fn refused(result: Result<Home>, says: &str) {
        let fault = result.err().expect("is refused");
        assert_eq!(fault.kind(), Kind::Config);
        assert!(fault.message().contains(says) && fault.message().contains("--data"), "{fault}");
    }

    #[test]
    fn a_directory_keeps_its_identity_when_opened_again() {
        let dir = tempfile::tempdir().expect("a directory");
        let first = home(&dir.path().join("new/data")).expect("makes").identity().clone();
        assert!(first.pipeline.starts_with("clicks-"));
        let again = home(&dir.path().join("new/data")).expect("opens");
        assert_eq!(again.identity(), &first);
        let beside = Home::open(&dir.path().join("new/data"), SystemClock::shared()).expect("opens");
        assert_eq!(beside.identity(), &first);
    }

    #[test]
    fn opening_beside_a_run_makes_nothing() {
        let dir = tempfile::tempdir().expect("a directory");
        refused(Home::open(&dir.path().join("none"), SystemClock::shared()), "no pipeline");
        refused(Home::open(dir.path(), SystemClock::shared()), "no pipeline");
        assert!(disk::entries(dir.path()).expect("lists").is_empty());
        // Made by half, as a run that is just starting leaves it for a moment.
        home(dir.path()).expect("makes");
        std::fs::remove_file(dir.path().join(MARKER)).expect("removes");
        refused(Home::open(dir.path(), SystemClock::shared()), "no pipeline");
        assert!(!dir.path().join(MARKER).exists(), "whoever runs writes it");
    }

    #[cfg(unix)]
    #[test]
    fn nobody_else_can_look_into_the_state() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().expect("a directory");
        home(dir.path()).expect("makes");
        let mode = std::fs::metadata(dir.path().join(STATE)).expect("looks").permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
    }

    #[test]
    fn a_stream_that_was_there_first_does_not_make_a_directory_foreign() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::create_dir_all(dir.path().join("stream/clicks")).expect("makes");
        home(dir.path()).expect("makes");
    }

    #[test]
    fn another_pipelines_directory_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        home(dir.path()).expect("makes");
        refused(Home::open_or_create(dir.path(), "orders", SystemClock::shared()), "belongs to the pipeline `clicks`");
    }

    #[test]
    fn outputs_without_their_state_are_refused_and_nothing_is_made() {
        let dir = tempfile::tempdir().expect("a directory");
        home(dir.path()).expect("makes");
        std::fs::remove_dir_all(dir.path().join(STATE)).expect("loses");
        refused(home(dir.path()), "but not its state");
        refused(Home::open(dir.path(), SystemClock::shared()), "but not its state");
        assert!(!dir.path().join(STATE).exists());
    }

    #[test]
    fn state_without_its_outputs_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        home(dir.path()).expect("makes");
        std::fs::write(dir.path().join(ROWS), b"rows").expect("writes");
        std::fs::remove_file(dir.path().join(MARKER)).expect("loses");
        refused(home(dir.path()), "do not carry");
    }

    #[test]
    fn outputs_that_nobody_signed_are_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::create_dir_all(dir.path().join("silver/dt=2026-11-23")).expect("makes");
        refused(home(dir.path()), "neither");
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::create_dir_all(dir.path().join("state/blobs")).expect("makes");
        refused(home(dir.path()), "neither");
    }

    #[test]
    fn state_and_outputs_of_two_pipelines_are_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let other = tempfile::tempdir().expect("a directory");
        home(dir.path()).expect("makes");
        home(other.path()).expect("makes");
        std::fs::copy(other.path().join(MARKER), dir.path().join(MARKER)).expect("mixes");
        refused(home(dir.path()), "different pipelines");
    }

    #[test]
    fn a_creation_that_died_half_way_is_finished() {
        let dir = tempfile::tempdir().expect("a directory");
        let first = home(dir.path()).expect("makes").identity().clone();
        std::fs::remove_file(dir.path().join(MARKER)).expect("as if never written");
        assert_eq!(home(dir.path()).expect("finishes").identity(), &first);
        assert!(dir.path().join(MARKER).exists());
    }

    #[test]
    fn a_damaged_identity_or_one_of_the_future_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut identity = home(dir.path()).expect("makes").identity().clone();
        identity.format = FORMAT + 1;
        std::fs::write(dir.path().join(IDENTITY), serde_json::to_vec(&identity).expect("text")).expect("writes");
        assert_eq!(home(dir.path()).err().expect("refused").kind(), Kind::Config);
        std::fs::write(dir.path().join(IDENTITY), b"{").expect("writes");
        assert_eq!(home(dir.path()).err().expect("refused").kind(), Kind::Corrupt);
    }

    #[test]
    fn a_second_run_is_refused_with_the_pid_of_the_first_and_may_start_when_that_ended() {
        let dir = tempfile::tempdir().expect("a directory");
        let home = home(dir.path()).expect("makes");
        let first = home.lock_for_run().expect("locks");
        let fault = home.lock_for_run().expect_err("is refused");
        assert_eq!(fault.kind(), Kind::Config);
        assert!(fault.message().contains(&format!("process {} on", std::process::id())), "{fault}");
        assert!(fault.message().contains(" since 20"), "{fault}");
        drop(first);
        home.lock_for_run().expect("locks again");
    }
}
