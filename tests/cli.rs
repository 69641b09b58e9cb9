//! Goal: the program as a shell sees it: exit codes, streams, and errors that say what to do.
//!
//! Owns: tests that start the binary. Does not own: what the verbs do with data.

use std::path::Path;
use std::process::{Command, Output};

struct Ran {
    code: i32,
    out: String,
    err: String,
}

fn sluicebox(folder: &Path, arguments: &[&str]) -> Ran {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sluicebox"));
    command
        .current_dir(folder)
        .args(arguments)
        .env_remove("SLUICEBOX_LOG")
        .env_remove("SLUICEBOX_CONFIG")
        .env_remove("SLUICEBOX_DATA")
        .env("SLUICEBOX__PIPELINE__NAME", "tested");
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ran { code: status.code().unwrap(), out: text(stdout), err: text(stderr) }
}

#[test]
fn wrong_usage_exits_with_2_and_help_with_0() {
    let folder = tempfile::tempdir().unwrap();
    let ran = sluicebox(folder.path(), &["fly"]);
    assert_eq!((ran.code, ran.out.as_str()), (2, ""));
    assert!(ran.err.contains("fly"), "{}", ran.err);
    let ran = sluicebox(folder.path(), &["--help"]);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    for verb in ["init", "validate", "put", "run", "demo", "query", "gold", "audit", "dlq", "shards"] {
        assert!(ran.out.contains(verb), "{}", ran.out);
    }
}

#[test]
fn a_bad_configuration_exits_with_78_and_names_place_and_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let ran = sluicebox(folder.path(), &["validate", "--set", "stream.shrads=4"]);
    assert_eq!((ran.code, ran.out.as_str()), (78, ""));
    let wanted = "error: `stream`: unknown key `shrads`\n  at --set stream.shrads=4\n  help: did you mean `shards`?";
    assert!(ran.err.starts_with(wanted), "{}", ran.err);
    let ran = sluicebox(folder.path(), &["validate", "--config", "nothing.toml"]);
    assert_eq!(ran.code, 78);
    assert!(ran.err.contains("nothing.toml") && ran.err.contains("sluicebox init"), "{}", ran.err);
}

#[test]
fn a_starter_is_written_once_and_is_valid_where_it_stands() {
    let folder = tempfile::tempdir().unwrap();
    let ran = sluicebox(folder.path(), &["init", "mine"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    let mine = folder.path().join("mine");
    let ran = sluicebox(&mine, &["validate"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(ran.out.contains("gold/hourly_by_type") && ran.out.contains("config/local.toml"), "{}", ran.out);
    let ran = sluicebox(&mine, &["validate", "--config", "config/reference.toml"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    for preset in ["low-latency", "high-throughput", "cost-optimised"] {
        let over = format!("config/presets/{preset}.toml");
        let ran = sluicebox(&mine, &["validate", "--show", "--config", "config/local.toml", "--config", &over]);
        assert_eq!(ran.code, 0, "{}", ran.err);
        assert!(!ran.out.contains("\"interval\": \"10s\"") && ran.out.contains(&over), "{}", ran.out);
    }
    let again = sluicebox(folder.path(), &["init", "mine"]);
    assert_eq!(again.code, 1);
    assert!(again.err.contains("not empty"), "{}", again.err);
}

#[test]
fn results_go_to_stdout_as_one_json_object_a_line_without_notes() {
    let folder = tempfile::tempdir().unwrap();
    let ran = sluicebox(folder.path(), &["validate", "--format", "json"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    for line in ran.out.lines() {
        let row: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(row["table"].is_string(), "{line}");
    }
    assert!(ran.out.lines().count() >= 3, "{}", ran.out);
}
