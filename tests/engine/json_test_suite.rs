//! The public JSON parsing suite (`y_` accept, `n_` refuse, `i_` either way), and a small set of our own in its manner.

use std::io::Read;
use std::path::PathBuf;

use bytes::Bytes;
use sluicebox::engine::contract::{Contract, EventOptions, TimeFormat, TimeSource};
use sluicebox_actors::model::letter::Stage;
use sluicebox_actors::model::position::{Sequence, ShardId};
use sluicebox_actors::model::record::{RawRecord, RawSlice};

/// What the suite's authors accept and we refuse on purpose.
const DUPLICATES: [&str; 2] = ["y_object_duplicated_key.json", "y_object_duplicated_key_and_value.json"];

fn ours() -> Vec<(String, Vec<u8>)> {
    let texts: [(&str, &[u8]); 24] = [
        ("y_true.json", b"true"),
        ("y_blanks.json", b"\r\n\t [ 1 , -0.5E+2 ]\n"),
        ("y_escapes.json", br#"["\"\\\/\b\f\n\r\t\u0000\ud834\udd1e"]"#),
        ("y_delete.json", b"[\"\x7f\"]"),
        ("y_utf8.json", "{\"é\":\"\u{2028}\u{10ffff}\"}".as_bytes()),
        ("y_huge_number.json", b"[1e99999, -123456789012345678901234567890]"),
        ("y_empty_name.json", b"{\"\":{\"\":[]}}"),
        ("n_empty.json", b""),
        ("n_blank.json", b" "),
        ("n_nul.json", b"[\"a\0\"]"),
        ("n_newline_in_string.json", b"[\"a\nb\"]"),
        ("n_tab_in_string.json", b"[\"\t\"]"),
        ("n_latin1.json", b"[\"\xe9\"]"),
        ("n_trailing.json", b"{}#"),
        ("n_trailing_comma.json", b"[1,]"),
        ("n_leading_zero.json", b"[012]"),
        ("n_plus.json", b"[+1]"),
        ("n_comment.json", b"[1/*2*/]"),
        ("n_single_quotes.json", b"['a']"),
        ("n_nan.json", b"[NaN]"),
        ("n_form_feed.json", b"[\x0c]"),
        ("n_unclosed.json", b"{\"a\":[1"),
        ("i_lone_surrogate.json", br#"["\ud800"]"#),
        ("i_byte_order_mark.json", b"\xef\xbb\xbf{}"),
    ];
    let mut all: Vec<_> = texts.iter().map(|(name, data)| ((*name).to_owned(), data.to_vec())).collect();
    all.push(("n_100000_arrays.json".to_owned(), vec![b'['; 100_000]));
    all.push(("n_50000_objects.json".to_owned(), b"[{\"\":".repeat(50_000)));
    all
}

/// The suite, where the recorded data lies beside the repository or where `SLUICEBOX_DATA` says.
fn archive() -> Option<Vec<(String, Vec<u8>)>> {
    let beside = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/data");
    let data = std::env::var_os("SLUICEBOX_DATA").map_or_else(beside, PathBuf::from);
    let path = data.join("malformed/JSONTestSuite-test_parsing.tar.gz");
    let Ok(packed) = std::fs::read(&path) else {
        eprintln!("JSONTestSuite is not at {}: set SLUICEBOX_DATA; going on with our own set", path.display());
        return None;
    };
    let mut tar = Vec::new();
    flate2::read::MultiGzDecoder::new(packed.as_slice()).read_to_end(&mut tar).expect("gzip");
    Some(untar(&tar))
}

/// Plain files of a ustar archive: 512-byte headers with the name at 0, the octal size at 124, the type at 156.
fn untar(tar: &[u8]) -> Vec<(String, Vec<u8>)> {
    let field = |header: &[u8], at: usize, length: usize| {
        let text = &header[at..at + length];
        let end = text.iter().position(|byte| *byte == 0).unwrap_or(length);
        String::from_utf8_lossy(&text[..end]).trim().to_owned()
    };
    let mut files = Vec::new();
    let mut at = 0;
    while let Some(header) = tar.get(at..at + 512).filter(|header| header[0] != 0) {
        let size = usize::from_str_radix(&field(header, 124, 12), 8).expect("size");
        let name = field(header, 0, 100);
        if matches!(header[156], b'0' | 0) {
            let name = name.rsplit('/').next().expect("name").to_owned();
            files.push((name, tar[at + 512..at + 512 + size].to_vec()));
        }
        at += 512 + size.next_multiple_of(512);
    }
    files
}

fn slice(files: &[(String, Vec<u8>)]) -> RawSlice {
    let record = |(i, (_, data)): (u64, &(String, Vec<u8>))| RawRecord {
        sequence: Sequence::dense(i),
        sub_sequence: 0,
        foreign: false,
        partition_key: Bytes::new(),
        arrival_us: 0,
        data: Bytes::copy_from_slice(data),
    };
    RawSlice { stream: "suite".into(), shard: ShardId::new("0"), records: (0..).zip(files).map(record).collect() }
}

fn check(files: &[(String, Vec<u8>)]) {
    let options =
        EventOptions { time: TimeSource::Arrival, time_format: TimeFormat::Rfc3339, default_offset_s: 0, max_future_us: 0 };
    let contract = Contract::compile("{}", &options).expect("contract");
    let events = contract.decoder().decode(&slice(files)).expect("decode");
    assert_eq!(events.origin.len() + events.rejections.len(), files.len());
    for index in &events.origin {
        let name = &files[*index as usize].0;
        assert!(!name.starts_with("n_") && !DUPLICATES.contains(&name.as_str()), "{name} is accepted");
    }
    for rejection in &events.rejections {
        let name = files[rejection.index as usize].0.as_str();
        let duplicate = DUPLICATES.contains(&name);
        assert!(!name.starts_with("y_") || duplicate, "{name} is refused: {}", rejection.message);
        assert_eq!(rejection.stage, Stage::Decode, "{name}");
        assert!(
            rejection.reason != "panic" && (duplicate == (rejection.reason == "duplicate_key")),
            "{name}: {}",
            rejection.reason
        );
    }
}

#[test]
fn our_own_set_of_texts_comes_out_right() {
    check(&ours());
}

#[test]
fn the_public_suite_comes_out_right_where_it_is_at_hand() {
    let mut files = ours();
    if let Some(suite) = archive() {
        assert!(suite.len() > 300, "the suite has 318 files");
        files.extend(suite);
    }
    check(&files);
}
