//! Goal: what the retention took while nobody read is told, ends the run with exit 1 or is counted once, as the settings say.

use std::collections::BTreeMap;

use sluicebox_actors::history;

use super::super::support::process::Ran;
#[cfg(debug_assertions)]
use super::super::support::site::files;
use super::*;

const HOUR_US: i64 = 3_600_000_000;

/// A clock that the test moves.
struct Moved(AtomicI64);

impl Clock for Moved {
    fn now_us(&self) -> i64 {
        self.0.load(Ordering::SeqCst)
    }

    fn random(&self) -> u64 {
        Then.random()
    }
}

/// A stream with time of its own, read to its end.
struct Away {
    site: Site,
    server: Server,
    clock: Arc<Moved>,
}

impl Away {
    fn from(local: &Site) -> Self {
        let clock = Arc::new(Moved(AtomicI64::new(LAST_US)));
        let (site, server) = served_by(Site::with_stream_of(local), clock.clone());
        site.drain();
        Self { site, server, clock }
    }

    /// Events that arrive so many hours after the last.
    fn put(&self, hours: i64) {
        self.site.put(more(hours.unsigned_abs(), 300).map(|(event, at_us)| (event, at_us + hours * HOUR_US)));
    }

    /// So many hours pass, and the service forgets what is older than a day.
    fn hours_later(&self, hours: i64) {
        self.clock.0.fetch_add(hours * HOUR_US, Ordering::SeqCst);
        block_on(self.server.sweep()).unwrap().unwrap();
    }

    /// The next run is refused by its shards, with these words.
    fn halts(&self, words: &[&str]) {
        let said = self.site.ran(&["run", "--drain"]).expect(1, "run --drain over a gap").err;
        for word in words {
            assert!(said.contains(word), "{word} is not in:\n{said}");
        }
    }
}

/// Gaps that were counted, by shard.
fn gaps(site: &Site) -> BTreeMap<String, u64> {
    let stores = site.stores().unwrap();
    let totals = |object| block_on(history::read(stores.blobs.as_ref(), &object)).unwrap().unwrap().header.totals;
    let rows = site.rows().into_iter().filter_map(|row| Some((row.shard.to_string(), totals(row.object?).gaps)));
    rows.filter(|(_, gaps)| *gaps > 0).collect()
}

// Row 51. (Numbers are dense here, so the hole shows as well; what Kinesis shows stands in the tests of the source.)
#[test]
fn records_that_the_retention_took_while_nobody_read_halt_their_shard_or_are_one_gap() {
    let away = Away::from(&stamped());
    away.put(1);
    away.hours_later(27);
    away.put(27);
    away.halts(&["gap: ", "on_gap = \"continue\""]);
    let before = away.site.rows();
    away.halts(&["gap: "]);
    let stands = |rows: Vec<sluicebox_actors::model::row::ShardRow>| rows.into_iter().map(|row| row.position).collect::<Vec<_>>();
    assert_eq!(stands(away.site.rows()), stands(before), "nothing is read behind a gap");
    let site = away.site.set("stream.on_gap=continue");
    let alerts = |ran: Ran| ran.err.lines().filter(|line| line.contains("alert=\"gap\"")).count();
    assert_eq!(alerts(site.drain()), site.rows().len(), "one for each shard");
    let expected: BTreeMap<_, _> = site.rows().iter().map(|row| (row.shard.to_string(), 1)).collect();
    assert_eq!(gaps(&site), expected);
    assert_eq!(alerts(site.drain()), 0, "nothing new is lost");
    assert_eq!(gaps(&site), expected, "counted once");
    site.ran(&["audit"]).expect(0, "audit");
}

// Rows 15 and 16.
#[cfg(debug_assertions)]
#[test]
fn a_staged_file_that_is_deleted_is_written_once_more_while_the_stream_has_its_records_and_told_after_that() {
    let local = stamped();
    let expected = local.finish();
    for is_forgotten in [false, true] {
        let clock = Arc::new(Moved(AtomicI64::new(LAST_US)));
        let (site, server) = served_by(Site::with_stream_of(&local), clock.clone());
        site.crash("commit.after_swap:4");
        let staged = files(&site.data().join("state/staged"));
        assert!(site.invisible() > 0 && !staged.is_empty(), "{staged:?}");
        staged.iter().for_each(|file| std::fs::remove_file(file).unwrap());
        if !is_forgotten {
            let log = site.drain().err;
            assert!(log.contains("output_rebuilt"), "{log}");
            site.evidence().must_equal(&expected, "after staged files were deleted");
            continue;
        }
        let away = Away { site, server, clock };
        let stood = |site: &Site| site.rows().into_iter().map(|row| (row.shard, row.position)).collect::<Vec<_>>();
        let before = stood(&away.site);
        away.hours_later(40);
        away.halts(&["output_lost", "records, and the stream has", "path=", "from=", "to=", "another name"]);
        let unmoved = stood(&away.site).into_iter().filter(|stands| before.contains(stands)).count();
        assert!(unmoved > 0, "nobody reads on behind a hole");
    }
}

// A shard that never had a record has no number in which a hole could show, and no last record to ask for.
#[test]
fn a_shard_that_never_had_a_record_halts_after_more_than_a_day_and_not_before() {
    let local = Site::empty();
    let infos = local.stream().shards_blocking().unwrap();
    let records = more(5, 300).map(|(data, at_us)| sluicebox_stream::embedded::PutRecord {
        data,
        arrival_us: Some(at_us),
        explicit_hash_key: Some(infos[0].hash_start),
        ..Default::default()
    });
    assert!(local.stream().put(&records.collect::<Vec<_>>()).unwrap().iter().all(Result::is_ok));
    let away = Away::from(&local);
    away.hours_later(22);
    away.site.drain();
    away.hours_later(23);
    away.site.drain();
    away.hours_later(25);
    away.halts(&["gap: ", infos[1].shard.as_str(), infos[2].shard.as_str()]);
    let site = away.site.set("stream.on_gap=continue");
    site.drain();
    let expected: BTreeMap<_, _> = infos.iter().map(|info| (info.shard.to_string(), 1)).collect();
    assert_eq!(gaps(&site), expected, "also without a record behind it");
    site.drain();
    assert_eq!(gaps(&site), expected, "counted once");
    site.ran(&["audit"]).expect(0, "audit");
}

// A parent that nobody read to its end, and that the stream does not know any more.
#[test]
fn a_shard_that_vanished_unread_halts_with_the_remedy_or_ends_with_a_gap_and_opens_its_child() {
    let away = Away::from(&stamped());
    let (one, other) = (shard(&away.site, 0), shard(&away.site, 1));
    away.put(1);
    let child = away.site.stream().merge(&one, &other).unwrap();
    away.hours_later(27);
    away.put(27);
    let listed = away.site.stream().shards_blocking().unwrap();
    assert!(listed.iter().all(|info| info.shard != one && info.shard != other), "{listed:?}");
    away.halts(&["gap: ", "on_gap = \"continue\": the shard ends there", one.as_str(), other.as_str()]);
    assert_eq!(stands(&away.site, &child), Some((ShardState::Blocked, Position::START)));
    let site = away.site.set("stream.on_gap=continue");
    site.drain();
    for parent in [&one, &other] {
        assert_eq!(stands(&site, parent).map(|(state, _)| state), Some(ShardState::Drained));
    }
    assert_eq!(stands(&site, &child), Some((ShardState::Open, newest(&site, &child))));
    // Whether the child lost something cannot be known: nobody has read the last record before it within the retention.
    let expected: BTreeMap<_, _> = site.rows().iter().map(|row| (row.shard.to_string(), 1)).collect();
    assert_eq!(gaps(&site), expected);
    site.drain();
    assert_eq!(gaps(&site), expected, "counted once");
    site.ran(&["audit"]).expect(0, "audit");
}
