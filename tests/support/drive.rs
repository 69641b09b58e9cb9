//! Goal: the real program in a directory of its own, driven as a user drives it; a hang ends the test, not the day.

#![allow(clippy::unwrap_used, reason = "a helper of a test may end the test")]

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use tempfile::TempDir;

/// The longest that one verb may take; the longest here takes a tenth of it.
const DEADLINE: Duration = Duration::from_secs(300);
/// A file system in memory is used when it is at least so large.
const MEMORY_MIN_KIB: u64 = 4 << 20;

/// How a verb ended.
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ran {
    /// The rows of `--format json`.
    pub(crate) fn rows(&self) -> Vec<serde_json::Value> {
        self.out.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
    }
}

/// A directory with a pipeline file for it.
pub(crate) struct Bench {
    folder: TempDir,
    config: PathBuf,
    /// Arguments of every verb.
    always: Vec<String>,
}

/// The root of the repository.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A folder that is removed with the value: in memory where there is plenty, because thousands of small files, each made durable,
/// measure the disk and nothing else.
pub(crate) fn folder() -> TempDir {
    let roomy = |line: &str| {
        let mut words = line.split(' ').skip(1);
        let here = words.next() == Some("/dev/shm") && words.next() == Some("tmpfs");
        let size = line.split([' ', ',']).find_map(|word| word.strip_prefix("size=")?.strip_suffix('k')?.parse::<u64>().ok());
        here && size.is_some_and(|kib| kib >= MEMORY_MIN_KIB)
    };
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
    if mounts.lines().any(roomy)
        && let Ok(folder) = tempfile::tempdir_in("/dev/shm")
    {
        return folder;
    }
    tempfile::tempdir().unwrap()
}

impl Bench {
    /// An example of config/examples as it is, with these settings laid over it.
    pub(crate) fn example(name: &str, sets: &[&str]) -> Self {
        let config = root().join(format!("config/examples/{name}.toml"));
        Self::of(folder(), config, sets)
    }

    /// A pipeline file and a schema of one's own, as `pipeline.toml` and `event.schema.json`.
    pub(crate) fn written(pipeline: &str, schema: &str) -> Self {
        let folder = folder();
        std::fs::write(folder.path().join("pipeline.toml"), pipeline).unwrap();
        std::fs::write(folder.path().join("event.schema.json"), schema).unwrap();
        let config = folder.path().join("pipeline.toml");
        Self::of(folder, config, &[])
    }

    fn of(folder: TempDir, config: PathBuf, sets: &[&str]) -> Self {
        let always = sets.iter().flat_map(|set| ["--set".to_owned(), (*set).to_owned()]).collect();
        Self { folder, config, always }
    }

    /// The same directory with one more setting.
    pub(crate) fn with(mut self, set: &str) -> Self {
        self.always.extend(["--set".to_owned(), set.to_owned()]);
        self
    }

    /// The data directory.
    pub(crate) fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Writes a file beside the data directory.
    pub(crate) fn write(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        path
    }

    /// Runs a verb.
    pub(crate) fn run<A: AsRef<std::ffi::OsStr>>(&self, arguments: &[A]) -> Ran {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sluicebox"));
        for name in ["SLUICEBOX_CONFIG", "SLUICEBOX_DATA"] {
            command.env_remove(name);
        }
        command.env("SLUICEBOX_LOG", "warn").current_dir(self.folder.path());
        command.arg("--config").arg(&self.config).arg("--data").arg(self.data()).args(&self.always).args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (sender, receiver) = mpsc::channel();
        let pipes: [Box<dyn Read + Send>; 2] = [Box::new(child.stdout.take().unwrap()), Box::new(child.stderr.take().unwrap())];
        for (at, mut pipe) in pipes.into_iter().enumerate() {
            let sender = sender.clone();
            std::thread::spawn(move || {
                let mut bytes = Vec::new();
                let read = pipe.read_to_end(&mut bytes).map(|_| bytes);
                // Nobody listens any more after a deadline.
                drop(sender.send((at, read)));
            });
        }
        let mut texts = [String::new(), String::new()];
        for _ in 0..2 {
            let Ok((at, bytes)) = receiver.recv_timeout(DEADLINE) else {
                child.kill().unwrap();
                child.wait().unwrap();
                panic!("{command:?} did not end within {DEADLINE:?}");
            };
            texts[at] = String::from_utf8(bytes.unwrap()).unwrap();
        }
        let code = child.wait().unwrap().code().unwrap_or(-1);
        let [out, err] = texts;
        Ran { code, out, err }
    }

    /// Runs a verb that must end well.
    pub(crate) fn good<A: AsRef<std::ffi::OsStr>>(&self, arguments: &[A]) -> Ran {
        let ran = self.run(arguments);
        let shown: Vec<_> = arguments.iter().take(12).map(|argument| argument.as_ref().to_string_lossy()).collect();
        assert_eq!(ran.code, 0, "{shown:?}\n{}\n{}", ran.out, ran.err);
        ran
    }

    /// Everything adds up, and Gold was computed once more from Silver.
    pub(crate) fn audit(&self) {
        let audit = self.good(&["audit"]);
        let said = audit.out + &audit.err;
        assert!(said.contains("everything adds up") && !said.contains(" 0 windows computed again"), "{said}");
    }
}
