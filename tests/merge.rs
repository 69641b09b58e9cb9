//! Goal: a window that doesn't fit into the memory of its merge is the same window, in Gold, in its base and in the audit.

use super::support::site::Site;

const EVENTS: u64 = 30_000;

/// Nearly every event is a group of its own, in one window a day; epochs are many enough to be merged into bases.
const SETTINGS: [&str; 6] = [
    "commit.size=256KiB",
    "limits.in_flight=1MiB",
    "limits.fetch_records=1000",
    "gold.hourly_by_type.window.tumbling=24h",
    "gold.hourly_by_type.sql=SELECT userId, timestamp, sessionId, count(*) AS events, approx_distinct(eventType) AS types, \
     sum(amount) AS revenue, last_value(eventType) AS last FROM silver GROUP BY userId, timestamp, sessionId",
    "gold.hourly_total.sql=SELECT userId, timestamp, count(*) AS events FROM silver GROUP BY userId, timestamp \
     HAVING count(*) < 3 ORDER BY timestamp DESC LIMIT 500",
];

const BY_WAY_OF_FILES: &str = "a merge goes by way of files";

#[test]
fn a_window_that_outgrows_the_memory_of_merges_has_the_same_bytes() {
    let site = |site: Site| SETTINGS.into_iter().fold(site, |site, setting| site.set(setting));
    let roomy = site(Site::with_events(EVENTS));
    let ran = roomy.ran(&["run", "--drain", "-v"]).expect(0, "run --drain");
    assert!(!ran.err.contains(BY_WAY_OF_FILES), "there is room by default");
    let tight = site(Site::with_stream_of(&roomy)).set("limits.merge_memory=1MiB");
    let ran = tight.ran(&["run", "--drain", "-v"]).expect(0, "run --drain");
    let times = ran.err.matches(BY_WAY_OF_FILES).count();
    assert!(times > 10, "written out {times} times");
    let bases = tight.data().join("state/blobs/bases");
    assert!(!super::support::site::files(&bases).is_empty(), "no base was merged in {}", bases.display());
    // The audit of both computes Gold once more, each within its own memory.
    tight.evidence().must_equal(&roomy.evidence(), "a merge within 1 MiB");
}

#[test]
fn an_epoch_whose_aggregates_reach_their_limit_ends_and_the_tables_are_the_same() {
    let at_once = ["stream.parallelism=1", "commit.size=1GiB", "commit.interval=1h"];
    let site = |site: Site| SETTINGS.into_iter().chain(at_once).fold(site, Site::set);
    let epochs = |site: &Site| {
        site.drain();
        let epochs = site.answers("SELECT received FROM ledger WHERE received > 0 ORDER BY received DESC");
        epochs.iter().map(|epoch| epoch["received"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    let roomy = site(Site::with_events(2 * EVENTS));
    let whole = epochs(&roomy);
    assert_eq!((whole.len(), whole.iter().sum()), (3, 2 * EVENTS), "one for each shard");
    let tight = site(Site::with_stream_of(&roomy)).set("limits.group_memory=1MiB");
    let cut = epochs(&tight);
    assert!(cut.len() >= 9 && cut[0] < whole[2] / 2, "{cut:?}");
    tight.evidence().must_equal(&roomy.evidence(), "epochs of at most 1 MiB of aggregates");
}
