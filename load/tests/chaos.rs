//! Goal: a few kills of the real program differ in nothing, and what would differ is seen.
//!
//! The program is the one beside `sluicebox-load`: `cargo test --workspace` builds it.

#![allow(clippy::unwrap_used, reason = "a test that can't go on says so by a panic")]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const LOAD: &str = env!("CARGO_BIN_EXE_sluicebox-load");

/// A folder that is not there yet.
fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("chaos-{name}"));
    if folder.exists() {
        std::fs::remove_dir_all(&folder).unwrap();
    }
    folder
}

fn chaos(folder: &Path, arguments: &[&str]) -> (Output, String) {
    attack("chaos", folder, arguments)
}

fn attack(verb: &str, folder: &Path, arguments: &[&str]) -> (Output, String) {
    let output = Command::new(LOAD).args([verb, "--dir"]).arg(folder).args(arguments).output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output, said)
}

/// A count of the table.
fn count(said: &str, what: &str) -> u64 {
    let line = said.lines().find(|line| line.starts_with(what)).unwrap_or_else(|| panic!("no {what}:\n{said}"));
    line.trim_end().rsplit(' ').next().unwrap().parse().unwrap()
}

#[test]
fn eight_kills_beside_a_producer_differ_in_nothing() {
    let folder = folder("good");
    let (output, said) = chaos(&folder, &["--kills", "8", "--seed", "4"]);
    assert!(output.status.success(), "{said}");
    assert_eq!(count(&said, "differences"), 0, "{said}");
    for some in ["records in the stream", "rows of Silver", "epochs", "windows", "puts started"] {
        assert!(count(&said, some) > 0, "{some}: {said}");
    }
    assert!(!folder.exists(), "a good run leaves nothing behind");
}

/// Lines of a shell script around the program, and what must be found.
const SABOTAGE: [(&str, &str, &str); 6] = [
    ("lost", "after() { find data/silver -name '*.parquet' | sort | head -1 | xargs rm; }", "is not in Silver"),
    (
        "doubled",
        "after() { for file in $(find data/silver -name '*.parquet' | sort | head -1); do cp $file $file.2.parquet; done; }",
        "is in Silver twice",
    ),
    ("raw", "after() { find data/bronze -name '*.parquet' | sort | head -1 | xargs rm; }", "records are in Bronze"),
    ("letters", "after() { find data/dlq -name '*.ndjson' | xargs rm; }", "its letter is of None"),
    ("gold", "[ $1 = gold ] && { $real \"$@\" | sed '1s/\"events\":/\"events\":1/'; exit 0; }", "events of ("),
    ("put", "[ $1 = put ] && exec $real \"$@\" --limit 2", "a payload is in the stream 0 times"),
];

/// A script around the program.
fn sabotaged(real: &Path, name: &str, lines: &str) -> PathBuf {
    let script = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("sabotage-{name}"));
    let drain = "if [ $1$2 = run--drain ]; then $real \"$@\" || exit $?; after; exit 0; fi\nexec $real \"$@\"\n";
    let text = format!("#!/bin/sh\nreal={}\nafter() {{ :; }}\n{lines}\n{drain}", real.display());
    std::fs::write(&script, text).unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    script
}

/// Attacks on it take minutes, and are for nights: `sluicebox-load fleet`.
#[test]
fn a_fleet_that_nobody_attacks_differs_in_nothing_and_falsified_gold_is_seen() {
    let few = ["--workers", "2", "--shards", "3", "--rate", "60", "--seed", "6", "--minutes", "0"];
    let (output, said) = attack("fleet", &folder("fleet"), &few);
    assert!(output.status.success(), "{said}");
    assert_eq!(count(&said, "differences"), 0, "{said}");
    assert!(count(&said, "epochs") > 2 && count(&said, "records in the stream") > 100, "{said}");
    let real = Path::new(LOAD).with_file_name("sluicebox");
    let (_, lines, found) = SABOTAGE.into_iter().find(|(name, ..)| *name == "gold").unwrap();
    let (folder, script) = (folder("false-fleet"), sabotaged(&real, "fleet", lines));
    let (output, said) = attack("fleet", &folder, &[&few[..], &["--binary", script.to_str().unwrap()]].concat());
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.lines().any(|line| line.starts_with("DIFFERENCE: ") && line.contains(found)), "{said}");
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn what_is_lost_doubled_or_falsified_is_found() {
    let real = Path::new(LOAD).with_file_name("sluicebox");
    for (name, lines, found) in SABOTAGE {
        let (folder, script) = (folder(name), sabotaged(&real, name, lines));
        let (output, said) = chaos(&folder, &["--kills", "1", "--seed", "11", "--binary", script.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(1), "{name}: {said}");
        let all_said = said.lines().any(|line| line.starts_with("DIFFERENCE: ") && line.contains(found));
        assert!(all_said && said.contains("\nagain: sluicebox-load chaos --kills"), "{name}: {said}");
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
