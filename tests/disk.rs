//! Goal: a disk that is full, or that may not be written, costs time and patience and no record.

use std::os::unix::process::CommandExt;
use std::process::Command;

use super::support::process::{Ran, Running, program, until};
use super::support::site::Site;

const EVENTS: u64 = 4_000;
const NO_ROOM: [&str; 3] = ["File too large", "disk full", "no room on disk"];

/// The same call in a shell that lets no file grow beyond so many KiB, until somebody raises that; the write fails instead of the
/// process.
fn confined(command: &Command, kib: u32) -> Command {
    let mut shell = Command::new("bash");
    shell.arg0("bash").args(["-c", "trap '' XFSZ; ulimit -S -f \"$0\"; exec \"$@\"", &kib.to_string()]);
    shell.arg(command.get_program()).args(command.get_args());
    if let Some(folder) = command.get_current_dir() {
        shell.current_dir(folder);
    }
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    shell
}

#[test]
fn a_run_that_can_write_no_more_says_so_and_a_later_one_ends_with_every_record() {
    // The rows' own files meet the limit first, then their log, then the tables.
    let settings = ["commit.size=1MiB", "limits.in_flight=4MiB", "restart.period=1h", "restart.intensity=2"];
    let roomy = |site: Site| settings.into_iter().fold(site, |site, setting| site.set(setting));
    let expected = roomy(Site::with_events(EVENTS)).finish();
    let site = roomy(Site::with_events(EVENTS));
    for kib in [16, 48, 96] {
        let log = site.folder().join(format!("{kib}.log"));
        let mut run = Running::start(confined(&site.command(&["run", "--drain"]), kib), log);
        // An epoch's files are made again from the stream, within the restart policy; an epoch that only lacks its object waits.
        until("a run without room to give up, or to say that it waits", || {
            (run.has_ended() || run.said().contains("trying again")).then_some(())
        });
        let said = run.said();
        assert!(NO_ROOM.iter().any(|words| said.contains(words)), "{kib} KiB: {said}");
        if run.has_ended() {
            run.end("its end").expect(1, "a run without room");
        } else {
            run.kill();
        }
    }
    site.finish().must_equal(&expected, "three runs without room");
}

/// Row 58. Whatever was written by halves lies there when there is room again.
#[test]
fn a_run_that_can_write_no_more_goes_on_by_itself_when_there_is_room_again() {
    let settings = ["commit.size=256KiB", "limits.in_flight=1MiB", "restart.intensity=1000000", "restart.backoff_max=200ms"];
    let roomy = |site: Site| settings.into_iter().fold(site, |site, setting| site.set(setting));
    let expected = roomy(Site::with_events(EVENTS)).finish();
    for kib in [64, 128, 256] {
        let site = roomy(Site::with_events(EVENTS));
        let log = site.folder().join("confined.log");
        let mut run = Running::start(confined(&site.command(&["run", "--drain"]), kib), log);
        run.until("a run without room to say so", || {
            let said = std::fs::read_to_string(site.folder().join("confined.log")).unwrap();
            NO_ROOM.iter().any(|words| said.contains(words)).then_some(())
        });
        let raised = Command::new("prlimit").args(["--fsize=unlimited", "--pid", &run.pid().to_string()]).status().unwrap();
        assert!(raised.success(), "{kib} KiB: nobody to give room to:\n{}", run.said());
        run.end("the end of a run that has room again").expect(0, &format!("{kib} KiB, and then room"));
        site.evidence().must_equal(&expected, &format!("{kib} KiB, and then room"));
    }
}

#[test]
fn directories_that_cannot_be_used_are_refused_with_what_to_do() {
    let site = Site::empty();
    let folder = site.folder();
    let refused = |verb: &[&str], says: &[&str]| {
        let mut command = program(folder);
        command.args(verb);
        let Ran { err, out, .. } = Ran::of(command).expect(78, &format!("{verb:?}"));
        assert_eq!(out, "", "{verb:?}");
        for word in says {
            assert!(err.contains(word), "{verb:?} should say `{word}`: {err}");
        }
    };
    for verb in [&["shards"][..], &["query", "SELECT 1"], &["audit"], &["gold"]] {
        refused(&[verb, &["--data", "nowhere"]].concat(), &["nowhere", "--data"]);
    }
    assert!(!folder.join("nowhere").exists(), "looking makes nothing");

    // Nobody may make files there, root neither.
    for verb in [&["run", "--drain"][..], &["put", "/dev/null"]] {
        refused(&[verb, &["--data", "/sys/sluicebox"]].concat(), &["/sys/sluicebox"]);
    }

    std::fs::create_dir_all(folder.join("foreign/state/blobs")).unwrap();
    refused(&["run", "--drain", "--data", "foreign"], &["foreign", "restore", "--data"]);

    let other = Site::with_events(100);
    other.drain();
    refused(&["run", "--drain", "--data", &other.data().display().to_string(), "--set", "pipeline.name=orders"], &["orders"]);
    std::fs::remove_dir_all(other.data().join("state")).unwrap();
    refused(&["run", "--drain", "--data", &other.data().display().to_string()], &["but not its state", "--data"]);
}
