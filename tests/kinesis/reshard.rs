//! Goal: shards that are split and merged while the program reads, waits or is not there; children after their parents, and the
//! tables of a quiet run over the same records.

use super::*;

/// Places in a log where something is said of a shard.
fn said(log: &str, words: &str, shard: &ShardId) -> Vec<usize> {
    let lines = log.lines().enumerate().filter(|(_, line)| line.contains(words) && line.contains(shard.as_str()));
    lines.map(|(number, _)| number).collect()
}

/// Each child is taken only when all that its parents held is committed.
fn in_order(log: &str, family: &[(&[&ShardId], &[ShardId])]) {
    for (parents, children) in family {
        let last = parents.iter().map(|parent| *said(log, "committed", parent).last().unwrap()).max().unwrap();
        for child in *children {
            let first = *said(log, "shard taken", child).first().unwrap();
            assert!(last < first, "{child} was taken before {parents:?} had ended:\n{log}");
        }
    }
}

// Row 19.
#[test]
fn a_shard_that_is_split_while_it_is_read_is_followed_to_its_children_by_this_run_and_the_next() {
    let (site, _server) = served(Site::with_stream_of(&stamped()).set(OFTEN));
    let parent = shard(&site, 0);
    let mut running = site.start("run", &["run"]);
    running.until("a commit", || (site.commits() > 0).then_some(()));
    let children = halve(&site, &parent);
    site.put(more(2, 600));
    running.until("a commit of each child", || {
        let has_begun = |child| stands(&site, child).is_some_and(|(_, position)| position > Position::START);
        children.iter().all(has_begun).then_some(())
    });
    assert_eq!(stands(&site, &parent), Some((ShardState::Drained, newest(&site, &parent))));
    running.terminate();
    let log = running.end("a run that was told to stop").expect(0, "run").err;
    in_order(&log, &[(&[&parent], &children)]);
    // Again, and this time nobody is there.
    halve(&site, &children[0]);
    site.put(more(3, 600));
    let expected = Site::with_stream_of(&site).finish();
    site.finish().must_equal(&expected, "split while it was read");
}

// Row 20.
#[test]
fn a_merged_shard_waits_for_the_parent_that_lags_and_so_does_every_window() {
    let (site, server) = served(Site::with_stream_of(&stamped()).set(OFTEN));
    let (fast, slow, other) = (shard(&site, 0), shard(&site, 1), shard(&site, 2));
    let child = site.stream().merge(&fast, &slow).unwrap();
    site.put(more(2, 600));
    assert!(newest(&site, &child) > Position::START, "the child holds records");
    always(&server, Some("GetRecords"), &slow, FaultKind::Throttle);
    let mut running = site.start("run", &["run"]);
    until_read(&mut running, &site, &[fast.clone(), other]);
    running.until("the end of a parent", || (stands(&site, &fast)?.0 == ShardState::Drained).then_some(()));
    // Time enough for whoever does not wait.
    let before = calls(&server, "GetRecords");
    running.until("more tries", || (calls(&server, "GetRecords") > before + 40).then_some(()));
    assert_eq!(stands(&site, &slow), Some((ShardState::Open, Position::START)));
    assert_eq!(stands(&site, &child), Some((ShardState::Blocked, Position::START)));
    assert_eq!(closed(&site), 0);
    lift(&server);
    until_read(&mut running, &site, &[slow, child]);
    running.until("closed windows", || (closed(&site) > 0).then_some(()));
    let expected = Site::with_stream_of(&site).finish();
    end(running, &site).must_equal(&expected, "merged while one parent lagged");
}

// Rows 21 and 22: every level holds records, so a child that does not wait would show.
#[test]
fn shards_that_are_split_twice_while_nobody_reads_are_read_level_by_level() {
    let local = stamped();
    let parent = shard(&local, 0);
    let children = halve(&local, &parent);
    local.put(more(2, 600));
    let grandchildren = halve(&local, &children[0]);
    local.put(more(3, 600));
    for shard in children.iter().chain(&grandchildren) {
        assert!(newest(&local, shard) > Position::START, "{shard} is empty");
    }
    let (site, _server) = served(Site::with_stream_of(&local));
    let log = site.drain().err;
    in_order(&log, &[(&[&parent], &children), (&[&children[0]], &grandchildren)]);
    site.evidence().must_equal(&local.finish(), "split twice while nobody read");
}
