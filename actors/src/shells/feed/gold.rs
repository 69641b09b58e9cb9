//! Gold for one sink: reads what is published, notes what will be shown, hands it over, notes that it was.
//!
//! Owns: the order of reads and writes around the sink's rows. Does not own: which window is due (machines/feed), the sink.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow_array::RecordBatch;
use bytes::Bytes;

use super::{Ended, FeedParts, GoldBell, GoldOutlet, LOOK, Patience, swap};
use crate::history;
use crate::machines::feed::Turn;
use crate::machines::feed::gold::{GoldFeed, WindowKey};
use crate::model::epoch::{Hash, ObjectRef};
use crate::model::fault::{Fault, Kind, Result};
use crate::model::feed::{Feed, FeedRow, WindowFeed, version, window_key};
use crate::model::row::WindowRow;
use crate::model::sabotage::{self, Sabotage};
use crate::model::states;
use crate::ports::{Fed, GoldRevision};
use crate::toolkit::crash;
use crate::toolkit::flag::Flag;

/// Why a sink is not given a window.
const TOO_LARGE: &str = "window_too_large";

struct Feeder {
    parts: FeedParts,
    outlet: GoldOutlet,
    feed: GoldFeed,
    tables: BTreeSet<String>,
}

/// Feeds one sink until everything is fed and nothing more comes.
pub(super) async fn feed(parts: FeedParts, outlet: GoldOutlet, bell: GoldBell, finish: Flag) -> Ended {
    let names = parts.engine.tables();
    let tables = outlet.tables.iter().filter_map(|table| names.get(*table)).map(|table| table.name.to_string()).collect();
    let feed = GoldFeed::new(outlet.sink.name(), outlet.max_lag_us);
    let mut patience = Patience::new(&parts, finish.clone());
    let mut feeder = Feeder { parts, outlet, feed, tables };
    feeder.load().await?;
    let mut looked_last = false;
    loop {
        feeder.hear(&bell).await?;
        feeder.tell();
        if let Some(key) = feeder.feed.next() {
            match feeder.feed_one(&key).await {
                Ok(()) => patience.renew(&feeder.parts, feeder.outlet.sink.name()),
                Err(fault) => {
                    let fenced = fault.kind() == Kind::Fenced;
                    feeder.feed.failed(key.clone());
                    if let Some(fault) = patience.spend(&feeder.parts, feeder.outlet.sink.name(), fault).await? {
                        return Ok(Some(fault));
                    }
                    if fenced {
                        feeder.reread(&key).await?;
                    }
                }
            }
        } else if finish.is_raised() && looked_last {
            return Ok(None);
        } else if finish.is_raised() {
            // A hint may have been missed; nothing comes after this look.
            looked_last = true;
            feeder.look().await?;
        } else {
            tokio::select! {
                biased;
                () = finish.wait() => {}
                () = bell.wait() => {}
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }
}

impl Feeder {
    /// What the sink has, and what is published.
    async fn load(&mut self) -> Result<()> {
        let rows = self.parts.rows.feeds(self.outlet.sink.name()).await?;
        self.sweep(&rows).await?;
        rows.into_iter().for_each(|row| self.feed.row_stands(row));
        self.look().await
    }

    async fn look(&mut self) -> Result<()> {
        for table in self.tables.clone() {
            for window in self.parts.rows.windows(&table).await? {
                let now_us = self.parts.clock.now_us();
                self.feed.published((window.table, window.start_us), window.revision, now_us);
            }
        }
        Ok(())
    }

    async fn hear(&mut self, bell: &GoldBell) -> Result<()> {
        let heard = bell.take();
        for (key, revision) in heard.hints.into_iter().filter(|((table, _), _)| self.tables.contains(table)) {
            self.feed.published(key, revision, self.parts.clock.now_us());
        }
        if heard.missed { self.look().await } else { Ok(()) }
    }

    fn tell(&mut self) {
        let (now_us, sink) = (self.parts.clock.now_us(), self.outlet.sink.name());
        let (waiting, lag_us) = (self.feed.waiting(), self.feed.lag_us(now_us));
        self.parts.board.update_sink(sink, |live| (live.waiting, live.lag_us) = (waiting, lag_us));
        let seconds = lag_us / 1_000_000;
        match self.feed.turn(now_us) {
            Some(Turn::Behind) => {
                tracing::error!(alert = "sink_behind", sink, windows = waiting, seconds, "Gold waits for a sink");
            }
            Some(Turn::CaughtUp) => tracing::info!(sink, "the sink is not behind any more"),
            None => {}
        }
    }

    /// Somebody else wrote the row.
    async fn reread(&mut self, key: &WindowKey) -> Result<()> {
        if let Some(row) = self.parts.rows.feed(self.outlet.sink.name(), &window_key(&key.0, key.1)).await? {
            self.feed.row_stands(row);
        }
        Ok(())
    }

    /// Hands the newest published revision of a window over, if there is one that the sink does not have.
    async fn feed_one(&mut self, key: &WindowKey) -> Result<()> {
        let window = self.parts.rows.window(&key.0, key.1).await?;
        let Some((row, has)) = self.feed.look(key, window.as_ref()) else { return Ok(()) };
        let Some(window) = window else { return Ok(()) };
        if window.content.as_ref().is_some_and(|content| content.len > self.outlet.max_window) {
            return self.pass_over(row, has, &window).await;
        }
        let table = self.parts.engine.tables().iter().position(|table| table.name.as_ref() == key.0);
        let table = table.ok_or_else(|| Fault::bug("a window of a table that the engine does not know"))?;
        let Some(keys) = self.parts.engine.keys(table) else {
            let message = format!("gold table {} does not show its group keys: add them to its SELECT", key.0);
            return Err(Fault::config(message));
        };
        let Some(rows) = self.content(&window).await? else { return Ok(()) };
        let of_rows = project(&rows, &keys)?;
        let (row, shown, fresh) = self.show(row, &has, &of_rows).await?;
        self.feed.row_stands(row.clone());
        let removed = match shown.is_empty() {
            true => of_rows.slice(0, 0),
            false => self.parts.engine.without(&shown, std::slice::from_ref(&of_rows))?,
        };
        let revision = GoldRevision {
            table: key.0.as_str().into(),
            window: self.parts.engine.tables()[table].windowing.starting(key.1),
            version: version(self.parts.created_us, window.revision),
            revision: window.revision,
            status: window.status,
            rows,
            keys,
            removed,
        };
        let fed = self.outlet.sink.feed(&revision).await?;
        crash::pass("feed.after_feed");
        self.tell_refused(&window, &fed.refused);
        self.note(row, &revision, &of_rows, fed, fresh).await
    }

    /// The sink keeps what it shows of a window that has grown too large for it, and is asked again with the next revision.
    async fn pass_over(&mut self, row: FeedRow, has: WindowFeed, window: &WindowRow) -> Result<()> {
        let refused = vec![(TOO_LARGE.to_owned(), window.rows)];
        self.tell_refused(window, &refused);
        let row = self.swap(&row, WindowFeed { revision: window.revision, refused, ..has }).await?;
        self.feed.fed(row);
        Ok(())
    }

    fn tell_refused(&self, window: &WindowRow, refused: &[(String, u64)]) {
        let (sink, table, start_us) = (self.outlet.sink.name(), window.table.as_str(), window.start_us);
        for (reason, rows) in refused {
            tracing::error!(alert = "sink_refused", sink, table, start_us, revision = window.revision, reason, rows, "refused");
        }
    }

    /// The rows of a window's newest revision; none if it has moved on.
    async fn content(&self, window: &WindowRow) -> Result<Option<RecordBatch>> {
        let content = window.content.as_ref().ok_or_else(|| Fault::corrupt("a revision without content"))?;
        let fault = match history::read_verified(self.parts.blobs.as_ref(), content).await {
            Ok(content) => return Ok(Some(self.parts.gold_files.decode(&window.table, content).await?)),
            Err(fault) if fault.kind() == Kind::Corrupt => fault,
            Err(fault) => return Err(fault),
        };
        // Its successor may have taken its place since the row was read.
        let now = self.parts.rows.window(&window.table, window.start_us).await?;
        if now.is_some_and(|now| now.content == window.content) { Err(fault) } else { Ok(None) }
    }

    /// Notes every key that the sink may show once this revision is handed over. The row, all those keys, and whether some of
    /// them are new.
    async fn show(&self, row: FeedRow, has: &WindowFeed, keys: &RecordBatch) -> Result<(FeedRow, Vec<RecordBatch>, bool)> {
        let mut shown = match &has.shown {
            None => Vec::new(),
            Some(object) => self.shown(&row, object).await?,
        };
        let fresh = self.parts.engine.without(std::slice::from_ref(keys), &shown)?;
        if fresh.num_rows() == 0 && has.shown.is_some() {
            return Ok((row, shown, false));
        }
        if sabotage::is(Sabotage::ForgetWhatIsShown) {
            return Ok((row, shown, true));
        }
        shown.push(fresh);
        let object = self.put(&row, states::encode_all(shown.iter().cloned().map(Ok))?).await?;
        let row = self.swap(&row, WindowFeed { shown: Some(object), ..has.clone() }).await?;
        crash::pass("feed.after_shown");
        Ok((row, shown, false))
    }

    async fn shown(&self, row: &FeedRow, object: &ObjectRef) -> Result<Vec<RecordBatch>> {
        let fault = match history::read_verified(self.parts.blobs.as_ref(), object).await {
            Ok(data) => return states::decode_all(&data)?.collect(),
            Err(fault) if fault.kind() == Kind::Corrupt => fault,
            Err(fault) => return Err(fault),
        };
        let now = self.parts.rows.feed(&row.sink, &row.key()).await?;
        Err(if now.as_ref() == Some(row) { fault } else { Fault::fenced(format!("{} has moved on: {fault}", row.key())) })
    }

    /// The sink has the revision, whole: from now on it shows that and nothing else.
    async fn note(&mut self, row: FeedRow, revision: &GoldRevision, keys: &RecordBatch, fed: Fed, forgotten: bool) -> Result<()> {
        let Feed::Window(has) = &row.fed else { return Err(Fault::bug("a window's row that is of something else")) };
        let shown = match revision.removed.num_rows() > 0 || forgotten {
            true => Some(self.put(&row, states::encode(keys)?).await?),
            false => has.shown.clone(),
        };
        let next = WindowFeed { revision: revision.revision, shown, refused: fed.refused, ..has.clone() };
        let row = self.swap(&row, next).await?;
        let (sink, table, start_us) = (self.outlet.sink.name(), revision.table.as_ref(), revision.window.start_us);
        let (stored, newer) = (fed.stored, fed.newer);
        tracing::info!(sink, table, start_us, revision = revision.revision, stored, newer, "fed");
        self.feed.fed(row);
        Ok(())
    }

    /// Writes what comes after a row, and lets the keys go that are not named any more.
    async fn swap(&self, row: &FeedRow, fed: WindowFeed) -> Result<FeedRow> {
        let before = match &row.fed {
            Feed::Window(fed) => fed.shown.clone(),
            Feed::Sink { .. } | Feed::Letters(_) => None,
        };
        let now = fed.shown.clone();
        let next = row.next(Feed::Window(fed));
        swap(&self.parts, &next).await?;
        crash::pass("feed.after_swap");
        if let Some(before) = before.filter(|before| now.as_ref() != Some(before)) {
            self.parts.blobs.delete(&before.key).await?;
        }
        Ok(next)
    }

    async fn put(&self, row: &FeedRow, data: Bytes) -> Result<ObjectRef> {
        let key = format!("{}{}/{:010}-{:016x}", prefix(&row.sink), row.key(), row.version + 1, self.parts.clock.random());
        self.parts.blobs.put(&key, data.clone()).await?;
        crash::pass("feed.after_keys");
        Ok(ObjectRef { key, len: data.len() as u64, sha256: Hash::of(&data) })
    }

    /// Deletes keys that no row names: left by a crash between a put and its CAS, or between the CAS and a deletion. Only those
    /// whose CAS has been decided, because the row stands at their number or past it.
    async fn sweep(&self, rows: &[FeedRow]) -> Result<()> {
        let prefix = prefix(self.outlet.sink.name());
        let decided: BTreeMap<String, &FeedRow> = rows.iter().map(|row| (row.key(), row)).collect();
        for key in self.parts.blobs.list(&prefix).await? {
            let Some((of, number)) = key.strip_prefix(&prefix).and_then(|rest| rest.rsplit_once('/')) else { continue };
            let Some(number) = number.split('-').next().and_then(|number| number.parse::<u64>().ok()) else { continue };
            let Some(row) = decided.get(of) else { continue };
            let named = matches!(&row.fed, Feed::Window(fed) if fed.shown.as_ref().is_some_and(|object| object.key == key));
            if number <= row.version && !named {
                self.parts.blobs.delete(&key).await?;
            }
        }
        Ok(())
    }
}

fn prefix(sink: &str) -> String {
    format!("fed/{sink}/")
}

/// The key columns of rows; as many rows, even where there is no column.
fn project(rows: &RecordBatch, keys: &Arc<[String]>) -> Result<RecordBatch> {
    let columns = keys.iter().map(|key| rows.schema_ref().index_of(key)).collect::<Result<Vec<_>, _>>();
    let projected = columns.and_then(|columns| rows.project(&columns));
    projected.map_err(|error| Fault::caused(Kind::Bug, "key columns of a Gold table", &error))
}
