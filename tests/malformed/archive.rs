//! Goal: hostile texts: the public parsing suite and naughty strings where they are at hand, always some of our own.

#![allow(clippy::unwrap_used, reason = "a helper of a test may end the test")]

use std::io::{Read, Write};
use std::path::PathBuf;

use flate2::read::MultiGzDecoder;

use crate::support::drive::root;

/// A file of the folder `malformed`, unpacked.
fn unpacked(name: &str) -> Option<Vec<u8>> {
    let data = std::env::var_os("SLUICEBOX_DATA").map_or_else(|| root().join("../shared/data"), PathBuf::from);
    let Ok(file) = std::fs::File::open(data.join("malformed").join(name)) else {
        let line = format!("recorded data is not at ../shared/data: {name} is left out (set SLUICEBOX_DATA)\n");
        drop(std::io::stderr().write_all(line.as_bytes()));
        return None;
    };
    let mut bytes = Vec::new();
    MultiGzDecoder::new(file).read_to_end(&mut bytes).unwrap();
    Some(bytes)
}

/// (name, bytes): `y_` is JSON, `n_` is not, `i_` may be taken for it.
pub(super) fn hostile() -> Vec<(String, Vec<u8>)> {
    let mut all = ours();
    if let Some(tar) = unpacked("JSONTestSuite-test_parsing.tar.gz") {
        let suite = untar(&tar);
        assert!(suite.len() > 300, "the suite has 318 files");
        all.extend(suite);
    }
    // Bare, hardly any of the naughty strings is JSON; which, the suite's rules say.
    all.extend(naughty().into_iter().map(|text| {
        let json = serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok();
        (format!("{}_naughty", if json { 'y' } else { 'n' }), text.into_bytes())
    }));
    all
}

fn ours() -> Vec<(String, Vec<u8>)> {
    let texts: [(&str, &[u8]); 26] = [
        ("y_object", b"{}"),
        ("y_null", b"null"),
        ("y_blanks", b"\r\n\t [ 1 , -0.5E+2 ]\n"),
        ("y_escapes", br#"["\"\\\/\b\f\n\r\t\u0000\ud834\udd1e"]"#),
        ("y_utf8", "{\"é\":\"\u{2028}\u{10ffff}\"}".as_bytes()),
        ("y_huge_numbers", b"[1e99999, -123456789012345678901234567890]"),
        ("y_empty_name", b"{\"\":{\"\":[]}}"),
        ("y_delete", b"[\"\x7f\"]"),
        ("n_empty", b""),
        ("n_blank", b" "),
        ("n_raw_nul", b"[\"a\0\"]"),
        ("n_only_nul", b"\0"),
        ("n_newline_in_string", b"[\"a\nb\"]"),
        ("n_latin1", b"[\"\xe9\"]"),
        ("n_utf16", b"\xff\xfe[\0]\0"),
        ("n_overlong", b"[\"\xc0\x80\"]"),
        ("n_surrogate_in_utf8", b"[\"\xed\xa0\x80\"]"),
        ("n_trailing", b"{}#"),
        ("n_two", b"{}\n{}"),
        ("n_trailing_comma", b"[1,]"),
        ("n_leading_zero", b"[012]"),
        ("n_comment", b"[1/*2*/]"),
        ("n_single_quotes", b"['a']"),
        ("n_nan", b"[NaN]"),
        ("n_unclosed", b"{\"a\":[1"),
        ("i_lone_surrogate", br#"["\ud800"]"#),
    ];
    let mut all: Vec<(String, Vec<u8>)> = texts.iter().map(|(name, data)| ((*name).to_owned(), data.to_vec())).collect();
    for at in 0..20_u32 {
        all.push((format!("y_{at}"), format!("{{\"a\":[{at},\"{at}\",{{\"b\":-{at}.5e{at}}}]}}").into_bytes()));
        all.push((format!("n_{at}"), format!("{{\"a\":[{at},\"{at}\",{{\"b\":-{at}.5e{at}}}}}").into_bytes()));
    }
    all.push(("n_100000_arrays".to_owned(), vec![b'['; 100_000]));
    all.push(("n_50000_objects".to_owned(), b"[{\"\":".repeat(50_000)));
    all
}

/// Strings that break programs.
pub(super) fn naughty() -> Vec<String> {
    let mut strings: Vec<String> =
        ["\0", "\u{feff}", "\u{202e}abc", "NULL", "'; DROP TABLE silver; --", "é\u{301}", "\u{10ffff}", "\r\n"]
            .map(str::to_owned)
            .to_vec();
    if let Some(text) = unpacked("blns.json.gz") {
        let read: Vec<String> = serde_json::from_slice(&text).unwrap();
        assert!(read.len() > 500, "the list has 515 strings");
        strings.extend(read);
    }
    strings
}

/// Plain files of a ustar archive: 512-byte headers with the name at 0, the octal size at 124, the type at 156.
fn untar(tar: &[u8]) -> Vec<(String, Vec<u8>)> {
    let text = |field: &[u8]| String::from_utf8_lossy(field.split(|byte| *byte == 0).next().unwrap()).trim().to_owned();
    let mut files = Vec::new();
    let mut at = 0;
    while let Some(header) = tar.get(at..at + 512).filter(|header| header[0] != 0) {
        let size = usize::from_str_radix(&text(&header[124..136]), 8).unwrap();
        if matches!(header[156], b'0' | 0) {
            let name = text(&header[..100]);
            files.push((name.rsplit('/').next().unwrap().to_owned(), tar[at + 512..at + 512 + size].to_vec()));
        }
        at += 512 + size.next_multiple_of(512);
    }
    files
}
