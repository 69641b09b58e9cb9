//! Goal: every letter has its turn, in order, and a sink that is back goes on where it was.

use proptest::prelude::*;

use super::*;
use crate::model::epoch::Hash;
use crate::model::letter::{Postmark, Rejection, Stage};
use crate::model::position::Sequence;
use crate::model::record::RawRecord;

fn shard() -> ShardId {
    ShardId::new("a")
}

fn letter(number: u64) -> Letter {
    let postmark = Postmark { fingerprint: "f".into(), version: "v".into(), request_id: "r".into() };
    let record = RawRecord {
        sequence: Sequence::dense(number),
        sub_sequence: 0,
        foreign: false,
        partition_key: "k".into(),
        arrival_us: 0,
        data: vec![b'x'; (number % 7) as usize].into(),
    };
    let (path, message, causes) = (None, String::new(), Vec::new());
    let rejection = Rejection { index: 0, stage: Stage::Decode, reason: "r", path, message, causes };
    postmark.letter(&"s".into(), &shard(), &record, rejection, 1, 0)
}

fn text(numbers: std::ops::Range<u64>) -> Vec<u8> {
    let lines = numbers.map(|number| serde_json::to_string(&letter(number)).unwrap() + "\n");
    lines.collect::<String>().into_bytes()
}

fn file(epoch: u64, number: u64, text: &[u8], rows: u64) -> PendingOutput {
    PendingOutput {
        class: OutputClass::Dlq,
        staged: String::new(),
        path: format!("dlq/{epoch}-{number}"),
        len: text.len() as u64,
        sha256: Hash::of(text),
        rows,
        epoch,
        closed_because: String::new(),
        held: Default::default(),
    }
}

#[test]
fn slices_are_whole_lines_and_a_cut_line_waits() {
    let text = text(0..3);
    let first = text.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    let cut = slice("f", LetterPlace { line: 5, ..LetterPlace::default() }, &text[..first + 10]).unwrap();
    assert_eq!((cut.bytes as usize, cut.letters.len(), cut.letters[0].line), (first, 1, 5));
    assert!(slice("f", LetterPlace::default(), &text[..10]).unwrap().letters.is_empty());
    let fault = slice("f", LetterPlace::default(), b"{}\n").unwrap_err();
    assert!(fault.kind() == Kind::Corrupt && fault.message().contains("line 1 of f"), "{fault}");
}

#[test]
fn an_epoch_that_was_not_heard_of_is_learned_before_any_later_one() {
    let mut post = Post::new("s", 100);
    post.row_stands(FeedRow::of_letters("s", &shard(), 2));
    let text = text(0..2);
    post.committed(&shard(), 5, vec![file(5, 0, &text, 2)]);
    assert_eq!(post.next(), Some(Next::Learn { shard: shard(), above: 2 }));
    assert_eq!(post.waiting(), 2);
    (3..=5).for_each(|epoch| post.committed(&shard(), epoch, vec![file(epoch, 0, &text, 2)]));
    let Some(Next::Send { output, .. }) = post.next() else { panic!() };
    assert_eq!((output.epoch, post.waiting()), (3, 6));
}

#[test]
fn after_many_epochs_without_letters_the_row_follows() {
    let mut post = Post::new("s", 100);
    (1..NOTED_EVERY).for_each(|epoch| post.committed(&shard(), epoch, Vec::new()));
    assert_eq!(post.next(), None);
    post.committed(&shard(), NOTED_EVERY, Vec::new());
    let Some(Next::Note(row)) = post.next() else { panic!() };
    post.row_stands(*row);
    assert_eq!((post.next(), post.waiting()), (None, 0));
}

#[test]
fn shards_take_turns() {
    let (mut post, other, text) = (Post::new("s", 100), ShardId::new("b"), text(0..1));
    [shard(), other].iter().for_each(|shard| post.committed(shard, 1, vec![file(1, 0, &text, 1)]));
    let mut turns = Vec::new();
    for _ in 0..3 {
        let Some(Next::Send { shard, .. }) = post.next() else { panic!() };
        post.had_its_turn(&shard);
        turns.push(shard.to_string());
    }
    assert_eq!(turns, ["a", "b", "a"]);
}

proptest! {
    /// Whatever the files, however often the feeder starts anew from its row, however much of a file a read brings.
    #[test]
    fn every_letter_is_handed_over_once_in_order(
        epochs in proptest::collection::vec(proptest::collection::vec(0u64..150, 0..3), 1..6),
        reads in proptest::collection::vec((1usize..40_000, any::<bool>()), 1..20),
    ) {
        let (mut files, mut number) = (BTreeMap::new(), 0);
        let mut commits = Vec::new();
        for (epoch, rows) in (1u64..).zip(&epochs) {
            let mut outputs = Vec::new();
            for (file_number, rows) in rows.iter().filter(|rows| **rows > 0).enumerate() {
                let text = text(number..number + rows);
                number += rows;
                let output = file(epoch, file_number as u64, &text, *rows);
                files.insert(output.path.clone(), text);
                outputs.push(output);
            }
            commits.push((epoch, outputs));
        }
        let tell = |post: &mut Post| commits.iter().for_each(|(epoch, files)| post.committed(&shard(), *epoch, files.clone()));
        let mut post = Post::new("s", 10);
        tell(&mut post);
        prop_assert_eq!(post.waiting(), number);
        let (mut got, mut stored, mut reads) = (Vec::new(), FeedRow::of_letters("s", &shard(), 0), reads.iter().cycle());
        while let Some(Next::Send { output, place, .. }) = post.next() {
            let (bytes, restart) = reads.next().unwrap();
            let text = &files[&output.path][place.offset as usize..];
            let mut slice = slice(&output.path, place, &text[..(*bytes).min(text.len())]).unwrap();
            if slice.letters.is_empty() {
                slice = super::slice(&output.path, place, text).unwrap();
            }
            got.extend(slice.letters.iter().map(|posted| posted.letter.sequence));
            stored = post.after(&shard(), &output, place, &slice).unwrap();
            if *restart {
                post = Post::new("s", 10);
                post.row_stands(stored.clone());
                let above = match &stored.fed {
                    Feed::Letters(has) => has.epoch,
                    other @ (Feed::Sink { .. } | Feed::Window(_)) => panic!("{other:?}"),
                };
                commits[above as usize..].iter().for_each(|(epoch, files)| post.committed(&shard(), *epoch, files.clone()));
            } else {
                post.row_stands(stored.clone());
            }
            prop_assert_eq!(post.waiting(), number - got.len() as u64);
        }
        prop_assert_eq!(got, (0..number).map(Sequence::dense).collect::<Vec<_>>());
        let Feed::Letters(has) = stored.fed else { panic!() };
        prop_assert_eq!(has.sent, number);
    }
}

#[test]
fn a_file_that_was_written_once_more_is_sent_whole_although_it_is_longer_or_shorter_than_its_epoch_says() {
    let now = text(0..3);
    for then in [0, now.len() / 2, now.len() * 2] {
        let mut post = Post::new("s", 100);
        let files = vec![PendingOutput { len: then as u64, ..file(1, 0, &now, 3) }, file(1, 1, &now, 3)];
        post.row_stands(FeedRow::of_letters("s", &shard(), 0));
        post.committed(&shard(), 1, files);
        let mut places = Vec::new();
        while let Some(Next::Send { output, place, .. }) = post.next() {
            // A letter at a time.
            let line = now[place.offset as usize..].split_inclusive(|byte| *byte == b'\n').next().unwrap();
            let slice = slice(&output.path, place, line).unwrap();
            places.push((place.file, place.line));
            let after = post.after(&shard(), &output, place, &slice).unwrap();
            post.row_stands(after);
        }
        assert_eq!(places, [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)], "it had {then} bytes");
    }
}
