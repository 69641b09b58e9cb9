//! Goal: a shard that the service hides, denies or does not answer for is neither an end nor silence: it stands where it stood,
//! nothing closes without it, the others go on, and afterwards nothing shows of it.

use super::*;

// Row 23.
#[test]
fn a_shard_that_is_not_listed_gets_no_row_and_closes_nothing_at_the_start_and_after_a_split() {
    let (site, server) = served(Site::with_stream_of(&stamped()).set(OFTEN));
    let (parent, hidden) = (shard(&site, 0), shard(&site, 1));
    always(&server, Some("ListShards"), &hidden, FaultKind::HideShard);
    let mut running = site.start("run", &["run"]);
    running.until("listings", || (calls(&server, "ListShards") > 4).then_some(()));
    assert_eq!((site.rows().len(), calls(&server, "GetRecords")), (0, 0), "a listing with a hole is not believed");
    lift(&server);
    running.until("commits", || (site.rows().iter().filter(|row| row.epoch > 0).count() == 3).then_some(()));
    // The end of a shard is not believed either before all that came out of it is listed.
    let hidden = ShardId::new("shardId-000000000004");
    always(&server, Some("ListShards"), &hidden, FaultKind::HideShard);
    let children = halve(&site, &parent);
    assert!(children.contains(&hidden), "{children:?}");
    site.put(more(2, 600));
    until_read(&mut running, &site, std::slice::from_ref(&parent));
    let before = calls(&server, "ListShards");
    running.until("listings", || (calls(&server, "ListShards") > before + 4).then_some(()));
    assert_eq!(stands(&site, &parent).map(|(state, _)| state), Some(ShardState::Open));
    assert_eq!(children.iter().filter_map(|child| stands(&site, child)).count(), 0);
    lift(&server);
    until_read(&mut running, &site, &children);
    let expected = Site::with_stream_of(&site).finish();
    end(running, &site).must_equal(&expected, "hidden for a while");
}

// Row 24.
#[test]
fn a_shard_that_is_listed_and_denied_stands_still_with_an_alert_and_goes_on_when_it_is_back() {
    let (site, server) = served(Site::with_stream_of(&stamped()).set(OFTEN));
    let (denied, others) = (shard(&site, 1), [shard(&site, 0), shard(&site, 2)]);
    always(&server, None, &denied, FaultKind::NotFound);
    let mut running = site.start("run", &["run"]);
    until_read(&mut running, &site, &others);
    let alert = |log: &str| log.lines().filter(|line| line.contains("shard_denied") && line.contains(denied.as_str())).count();
    running.until("an alert", || (alert(&said(&site)) > 0).then_some(()));
    assert_eq!(stands(&site, &denied), Some((ShardState::Open, Position::START)));
    assert_eq!(closed(&site), 0);
    assert_eq!(alert(&said(&site)), 1, "told once");
    lift(&server);
    until_read(&mut running, &site, &[denied]);
    let expected = Site::with_stream_of(&site).finish();
    end(running, &site).must_equal(&expected, "denied for a while");
}

fn said(site: &Site) -> String {
    String::from_utf8_lossy(&std::fs::read(site.folder().join("run")).unwrap()).into_owned()
}

// Row 26.
#[test]
fn a_shard_that_is_throttled_for_ever_is_not_idle_and_holds_every_window_back() {
    let (site, server) = served(Site::with_stream_of(&stamped()).set(OFTEN));
    let (throttled, others) = (shard(&site, 1), [shard(&site, 0), shard(&site, 2)]);
    always(&server, Some("GetRecords"), &throttled, FaultKind::Throttle);
    let mut running = site.start("run", &["run"]);
    until_read(&mut running, &site, &others);
    let before = calls(&server, "GetRecords");
    running.until("more tries", || (calls(&server, "GetRecords") > before + 40).then_some(()));
    let row = site.rows().into_iter().find(|row| row.shard == throttled).unwrap();
    assert_eq!((row.epoch, row.position), (0, Position::START), "neither read nor idle");
    assert_eq!(closed(&site), 0);
    let shown = site.ran(&["shards", "--format", "json"]).expect(0, "shards").out;
    let mut lines = shown.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let line = lines.find(|line| line["shard"] == throttled.as_str()).unwrap();
    assert_eq!(
        (&line["state"], &line["run_state"], &line["behind"]),
        (&"open".into(), &"running".into(), &serde_json::Value::Null)
    );
    lift(&server);
    until_read(&mut running, &site, &[throttled]);
    running.until("closed windows", || (closed(&site) > 0).then_some(()));
    let expected = Site::with_stream_of(&site).finish();
    end(running, &site).must_equal(&expected, "throttled for a while");
}
