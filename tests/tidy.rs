//! Goal: the house rules hold in every file, because a test holds them. Each rule is a function from a source file to complaints,
//! and each is itself tested on a small bad sample: a rule that can't fail is no rule.

mod source;

use std::path::Path;

use source::Source;

const FILE_LINES_MAX: usize = 500;
const FUNCTION_LINES_MAX: usize = 70;
const LINE_CHARS_MAX: usize = 130;

/// Functions that may be longer for now: (path, function, lines, reason). They may shrink, never grow; best is an empty list.
const LONG_FUNCTIONS: [(&str, &str, usize, &str); 0] = [];

/// The layers of `actors/`, from top to bottom: each may name only itself and what stands below.
const LAYERS: [&str; 7] = ["pipeline", "shells", "history", "toolkit", "machines", "ports", "model"];

/// Layers that hold every decision and are simulated: nothing in them may wait, or know an actor or a runtime.
const PURE: [&str; 2] = ["machines", "model"];

/// Where actix may be named.
const ACTIX_MAY: [&str; 5] = ["actors/src/pipeline", "actors/src/shells", "actors/src/toolkit", "src/run.rs", "src/topology.rs"];

/// Where results are printed.
const PRINTING_MAY: [&str; 3] = ["src/output", "src/cli", "load/src/"];

type Rule = fn(&Source) -> Vec<String>;

const RULES: [(&str, Rule); 10] = [
    ("files are short", files_are_short),
    ("functions are short", functions_are_short),
    ("lines are short", lines_are_short),
    ("files say what they own", files_say_what_they_own),
    ("banned words", banned_words),
    ("only the surface prints", only_the_surface_prints),
    ("layers import downward", layers_import_downward),
    ("decisions are pure", decisions_are_pure),
    ("actix is confined", actix_is_confined),
    ("packages import downward", packages_import_downward),
];

/// Stands in a folder of tests, or is a test module in a file of its own.
fn is_test(source: &Source) -> bool {
    ["tests", "tests.rs", "fixtures.rs"].iter().any(|name| source.path.split('/').any(|part| part == *name))
}

fn files_are_short(source: &Source) -> Vec<String> {
    let lines = source.text.lines().count();
    let complaint = format!("{lines} lines, the limit is {FILE_LINES_MAX}: split it by question");
    if lines > FILE_LINES_MAX { vec![complaint] } else { Vec::new() }
}

fn functions_are_short(source: &Source) -> Vec<String> {
    if is_test(source) {
        return Vec::new();
    }
    let limit = |name: &str| {
        let long = LONG_FUNCTIONS.iter().find(|(path, function, _, _)| *path == source.path && *function == name);
        long.map_or(FUNCTION_LINES_MAX, |(_, _, lines, _)| *lines)
    };
    let long = source.functions().into_iter().filter(|function| function.lines > limit(&function.name));
    long.map(|function| {
        format!("{}: `{}` has {} lines, the limit is {FUNCTION_LINES_MAX}", function.line, function.name, function.lines)
    })
    .collect()
}

fn lines_are_short(source: &Source) -> Vec<String> {
    let long = source.text.lines().enumerate().filter(|(_, line)| line.chars().count() > LINE_CHARS_MAX);
    long.map(|(at, line)| format!("{}: {} characters, the limit is {LINE_CHARS_MAX}", at + 1, line.chars().count())).collect()
}

fn files_say_what_they_own(source: &Source) -> Vec<String> {
    let header: String = source.text.lines().take_while(|line| line.starts_with("//!")).collect::<Vec<_>>().join(" ");
    if header.is_empty() {
        return vec!["opens without a `//!` doc".to_owned()];
    }
    // A crate root is a table of contents, a test file states its goal.
    if source.path.ends_with("lib.rs") || is_test(source) {
        return Vec::new();
    }
    let missing = ["Owns:", "Does not own:"].into_iter().filter(|words| !header.contains(words));
    missing.map(|words| format!("its `//!` doc lacks `{words}`")).collect()
}

fn banned_words(source: &Source) -> Vec<String> {
    // Written in two halves, so that this file does not find itself.
    let words = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")];
    let mut complaints = Vec::new();
    for (at, line) in source.text.lines().enumerate() {
        complaints.extend(
            words.iter().filter(|word| Source::names(line, word)).map(|word| format!("{}: {word}: do it or file it", at + 1)),
        );
    }
    let calls = [concat!("dbg", "!"), concat!("todo", "!"), concat!("unimplemented", "!")];
    complaints.extend(calls.iter().filter(|call| source.code.contains(*call)).map(|call| format!("{call} is not left in")));
    if source.code.contains(concat!("#[ign", "ore")) {
        complaints.push("a test that is not run is not a test".to_owned());
    }
    complaints
}

fn only_the_surface_prints(source: &Source) -> Vec<String> {
    if is_test(source) || PRINTING_MAY.iter().any(|place| source.path.starts_with(place)) {
        return Vec::new();
    }
    let calls = ["print!", "println!", "eprint!", "eprintln!"].into_iter();
    calls
        .filter(|call| Source::names(&source.product, call.trim_end_matches('!')) && source.product.contains(call))
        .map(|call| format!("{call} outside src/output and src/cli: return it, or log it"))
        .collect()
}

fn layer(source: &Source) -> Option<(usize, &str)> {
    let path = source.path.strip_prefix("actors/src/")?;
    let name = path.split('/').next().unwrap_or(path).trim_end_matches(".rs");
    if name == "lib" {
        return None;
    }
    Some((LAYERS.iter().position(|layer| *layer == name).unwrap_or(usize::MAX), name))
}

fn layers_import_downward(source: &Source) -> Vec<String> {
    let Some((own, name)) = layer(source) else { return Vec::new() };
    if own == usize::MAX {
        return vec![format!("`{name}` is not one of the layers {LAYERS:?}")];
    }
    let mut complaints = Vec::new();
    for (line, target) in source.crate_paths() {
        match LAYERS.iter().position(|layer| *layer == target) {
            Some(rank) if rank >= own => {}
            Some(_) => complaints.push(format!("{line}: `{name}` names `{target}`, which stands above it")),
            None => complaints.push(format!("{line}: `crate::{target}` is not a layer")),
        }
    }
    if source.product.contains("super::super::") {
        complaints.push("`super::super::` hides which layer is meant: write `crate::`".to_owned());
    }
    complaints
}

fn decisions_are_pure(source: &Source) -> Vec<String> {
    let Some((_, name)) = layer(source).filter(|(_, name)| PURE.contains(name)) else { return Vec::new() };
    let words = ["async", "await", "actix", "actix_rt", "tokio", "std::fs", "std::net", "std::thread"];
    let found = words.into_iter().filter(|word| Source::names(&source.product, word));
    found.map(|word| format!("`{word}` in {name}: decisions are synchronous and alone")).collect()
}

fn actix_is_confined(source: &Source) -> Vec<String> {
    if is_test(source) || ACTIX_MAY.iter().any(|place| source.path.starts_with(place)) {
        return Vec::new();
    }
    let found = ["actix", "actix_rt"].into_iter().filter(|word| Source::names(&source.product, word));
    found.map(|word| format!("`{word}` outside {ACTIX_MAY:?}")).collect()
}

fn packages_import_downward(source: &Source) -> Vec<String> {
    let banned: &[&str] = match source.path.split('/').next().unwrap_or_default() {
        "actors" => &["sluicebox", "sluicebox_load", "datafusion", "parquet", "rusqlite", "sonic_rs", "std::fs", "std::net"],
        "src" => &["sluicebox_load"],
        _ => &[],
    };
    let found = banned.iter().filter(|word| Source::names(&source.product, word));
    found
        .map(|word| format!("`{word}`: imports go load → sluicebox → sluicebox-actors, and actors/ knows no engine and no disk"))
        .collect()
}

fn collect(folder: &Path, root: &Path, found: &mut Vec<Source>) {
    let mut entries: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        let name = path.strip_prefix(root).unwrap().to_string_lossy().replace('\\', "/");
        if path.is_dir() {
            collect(&path, root, found);
        } else if name.ends_with(".rs") {
            found.push(Source::new(&name, &std::fs::read_to_string(&path).unwrap()));
        }
    }
}

fn workspace() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut sources = Vec::new();
    let folders = [
        "src",
        "tests",
        "actors/src",
        "actors/tests",
        "actors/sim/src",
        "load/src",
        "load/tests",
        "fuzz/src",
        "fuzz/fuzz_targets",
    ];
    for folder in folders {
        let folder = root.join(folder);
        if folder.is_dir() {
            collect(&folder, root, &mut sources);
        }
    }
    sources
}

#[test]
fn every_file_keeps_the_house_rules() {
    let sources = workspace();
    assert!(sources.len() > 20, "the walk found only {} files", sources.len());
    let mut complaints = Vec::new();
    for source in &sources {
        if source.path.ends_with("/mod.rs") {
            complaints.push(format!("{}: module trees stand in lib.rs, not in mod.rs", source.path));
        }
        for (rule, check) in RULES {
            complaints.extend(check(source).into_iter().map(|complaint| format!("{}: {complaint} ({rule})", source.path)));
        }
    }
    assert!(complaints.is_empty(), "{} complaints:\n{}", complaints.len(), complaints.join("\n"));
}

#[test]
fn a_long_function_leaves_the_list_when_it_has_become_short() {
    let sources = workspace();
    for (path, name, _, reason) in LONG_FUNCTIONS {
        let source = sources.iter().find(|source| source.path == path);
        let lines = source.and_then(|source| source.functions().into_iter().find(|function| function.name == name));
        let is_long = lines.is_some_and(|function| function.lines > FUNCTION_LINES_MAX);
        assert!(is_long && !reason.is_empty(), "{path}: take `{name}` off the list");
    }
}

#[test]
fn the_gate_runs_what_the_readme_promises_and_the_guarantee_has_its_exact_words() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |name: &str| std::fs::read_to_string(root.join(name)).unwrap();
    let (readme, gate) = (read("README.md"), read(".ci/run"));
    assert!(readme.contains("cargo test --workspace") && gate.contains("step cargo test --workspace"));
    assert!(read("CONTRIBUTING.md").contains(".ci/run"));
    let words: Vec<&str> = readme.split_whitespace().filter(|word| *word != ">").collect();
    let guarantee = "Each record of the stream (sequence number and sub-sequence number) contributes exactly once to every file \
        and aggregate, or is accounted for in the ledger; outputs are idempotent by (key, version).";
    assert!(words.join(" ").contains(guarantee));
}

const HEADER: &str = "//! One sentence.\n//!\n//! Owns: this. Does not own: that.\n\n";

/// A sample that one rule must refuse, and no other.
fn refused_by(wanted: &str, path: &str, text: &str) {
    let source = Source::new(path, text);
    let names: Vec<&str> = RULES.iter().filter(|(_, check)| !check(&source).is_empty()).map(|(name, _)| *name).collect();
    assert_eq!(names, [wanted], "{path}:\n{text}");
}

#[test]
fn a_good_sample_passes_every_rule() {
    let text =
        format!("{HEADER}use crate::model::fault::Fault;\n\n/// tokio and actix may be named in words.\npub fn f() {{}}\n");
    let source = Source::new("actors/src/machines/shard.rs", &text);
    for (name, check) in RULES {
        assert_eq!(check(&source), Vec::<String>::new(), "{name}");
    }
}

#[test]
fn what_is_too_long_is_refused() {
    refused_by("files are short", "src/a.rs", &format!("{HEADER}{}", "// x\n".repeat(500)));
    refused_by("functions are short", "src/a.rs", &format!("{HEADER}fn f() {{\n{}}}\n", "    g();\n".repeat(70)));
    refused_by("lines are short", "src/a.rs", &format!("{HEADER}// {}\n", "x".repeat(130)));
    let in_tests = format!("{HEADER}#[cfg(test)]\nmod tests {{\nfn f() {{\n{}}}\n}}\n", "    g();\n".repeat(70));
    assert_eq!(functions_are_short(&Source::new("src/a.rs", &in_tests)), Vec::<String>::new());
}

#[test]
fn a_file_that_does_not_say_what_it_owns_is_refused() {
    refused_by("files say what they own", "src/a.rs", "fn f() {}\n");
    refused_by("files say what they own", "src/a.rs", "//! One sentence. Owns: this.\nfn f() {}\n");
    refused_by("files say what they own", "tests/a.rs", "fn f() {}\n");
}

#[test]
fn leftovers_are_refused_in_comments_and_in_code() {
    refused_by("banned words", "src/a.rs", &format!("{HEADER}// {}: later\n", concat!("TO", "DO")));
    refused_by("banned words", "src/a.rs", &format!("{HEADER}fn f() {{ {}(1); }}\n", concat!("dbg", "!")));
    refused_by("banned words", "tests/a.rs", &format!("{HEADER}#[test]\n{}]\nfn f() {{}}\n", concat!("#[ign", "ore")));
}

#[test]
fn printing_outside_the_surface_is_refused() {
    let text = format!("{HEADER}fn f() {{ println!(\"x\"); }}\n");
    refused_by("only the surface prints", "src/read.rs", &text);
    refused_by("only the surface prints", "actors/src/shells/shard.rs", &text.replace("println", "eprint"));
    for path in ["src/output/human.rs", "src/cli/put.rs"] {
        assert_eq!(only_the_surface_prints(&Source::new(path, &text)), Vec::<String>::new());
    }
}

#[test]
fn an_import_upward_is_refused() {
    let text = format!("{HEADER}use crate::toolkit::credit::Credit;\n");
    refused_by("layers import downward", "actors/src/machines/shard.rs", &text);
    refused_by("layers import downward", "actors/src/model/window.rs", &format!("{HEADER}use crate::{{model::fault, ports}};\n"));
    refused_by("layers import downward", "actors/src/helpers.rs", HEADER);
    refused_by("layers import downward", "actors/src/machines/a/b.rs", &format!("{HEADER}use super::super::shells;\n"));
    assert_eq!(layers_import_downward(&Source::new("actors/src/shells/shard.rs", &text)), Vec::<String>::new());
}

#[test]
fn a_decision_that_waits_is_refused() {
    refused_by("decisions are pure", "actors/src/machines/shard.rs", &format!("{HEADER}async fn f() {{}}\n"));
    refused_by("decisions are pure", "actors/src/model/window.rs", &format!("{HEADER}use tokio::sync::Semaphore;\n"));
    let in_tests = format!("{HEADER}#[cfg(test)]\nmod tests {{\n    use tokio::test;\n}}\n");
    assert_eq!(decisions_are_pure(&Source::new("actors/src/machines/shard.rs", &in_tests)), Vec::<String>::new());
}

#[test]
fn actix_outside_its_folders_is_refused() {
    let text = format!("{HEADER}use actix::prelude::*;\n");
    for path in ["actors/src/ports.rs", "src/store/disk.rs", "load/src/main.rs"] {
        refused_by("actix is confined", path, &text);
    }
    for path in ["actors/src/toolkit/spawn.rs", "src/run.rs", "src/topology.rs"] {
        assert_eq!(actix_is_confined(&Source::new(path, &text)), Vec::<String>::new());
    }
}

#[test]
fn a_package_that_imports_upward_is_refused() {
    refused_by("packages import downward", "actors/src/ports.rs", &format!("{HEADER}use sluicebox::settings::Settings;\n"));
    refused_by("packages import downward", "actors/src/ports.rs", &format!("{HEADER}use std::fs::File;\n"));
    refused_by("packages import downward", "src/read.rs", &format!("{HEADER}use sluicebox_load::oracle;\n"));
}
