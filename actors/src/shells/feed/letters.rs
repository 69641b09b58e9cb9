//! Letters for one sink: finds the letter files of committed epochs, reads them slice by slice, hands them over.
//!
//! Owns: reads of rows, epochs and files, the order of sending and noting. Does not own: which letters are due (machines/feed),
//! the sink.

use super::{Ended, FeedParts, LOOK, LetterBell, LetterOutlet, Patience, swap};
use crate::history;
use crate::machines::feed::Turn;
use crate::machines::feed::letters::{Next, Post, Slice, letter_files, slice};
use crate::model::epoch::PendingOutput;
use crate::model::fault::{Fault, Kind, Result};
use crate::model::feed::{Feed, FeedRow, LetterPlace, letters_key, sink_key};
use crate::model::position::ShardId;
use crate::model::sabotage::{self, Sabotage};
use crate::ports::Rows;
use crate::toolkit::crash;
use crate::toolkit::flag::Flag;

/// Bytes of letters that are read at once; one letter may be larger.
const READ_BYTES: usize = 1 << 20;

/// Makes a sink known. Its rows come first: a sink that is known by half begins again.
pub(super) async fn begin(parts: &FeedParts, outlet: &LetterOutlet) -> Result<()> {
    let sink = outlet.sink.name();
    if parts.rows.feed(sink, &sink_key()).await?.is_some() {
        return Ok(());
    }
    let shards = parts.rows.shards().await?;
    // Nobody commits before he has made the sink known. While it is not, this is how far all have come without it; else it may be
    // how far they have come since.
    if shards.iter().any(|shard| shard.epoch > 0) && parts.rows.feed(sink, &sink_key()).await?.is_some() {
        return Ok(());
    }
    for shard in shards {
        let epoch = if outlet.replay { 0 } else { shard.epoch };
        let row = FeedRow::of_letters(sink, &shard.shard, epoch);
        // Lost = it is there: whoever made it was here before.
        parts.rows.update_feed(0, &row.next(row.fed.clone())).await?;
    }
    let row = FeedRow::of_sink(sink);
    parts.rows.update_feed(0, &row.next(row.fed.clone())).await?;
    tracing::info!(sink, replay = outlet.replay, "a sink of letters begins");
    Ok(())
}

/// Does its row say that shards must wait?
pub(super) async fn holds(rows: &dyn Rows, sink: &str) -> Result<bool> {
    let row = rows.feed(sink, &sink_key()).await?;
    Ok(row.is_some_and(|row| matches!(row.fed, Feed::Sink { holds: true })))
}

/// Tells the other workers whether shards must wait.
pub(super) async fn say(parts: &FeedParts, sink: &str, holds: bool) -> Result<()> {
    let Some(row) = parts.rows.feed(sink, &sink_key()).await? else { return Ok(()) };
    if row.fed == (Feed::Sink { holds }) { Ok(()) } else { swap(parts, &row.next(Feed::Sink { holds })).await }
}

struct Feeder {
    parts: FeedParts,
    outlet: LetterOutlet,
    post: Post,
    /// What the other workers were told last.
    said: Option<bool>,
}

/// What a turn came to.
enum Done {
    /// Something was done.
    Something,
    /// A file is not visible yet; its owner is about to publish it.
    NotVisible,
}

/// Feeds one sink until everything is handed over and nothing more comes.
pub(super) async fn feed(parts: FeedParts, outlet: LetterOutlet, bell: LetterBell, finish: Flag) -> Ended {
    let post = Post::new(outlet.sink.name(), outlet.max_backlog);
    let mut patience = Patience::new(&parts, finish.clone());
    let mut feeder = Feeder { parts, outlet, post, said: None };
    feeder.load().await?;
    let mut looked_last = false;
    loop {
        feeder.hear(&bell).await?;
        feeder.tell().await?;
        let Some(next) = feeder.post.next() else {
            if finish.is_raised() && looked_last {
                return Ok(None);
            }
            if finish.is_raised() {
                // A hint may have been missed; nothing comes after this look.
                looked_last = true;
                feeder.look().await?;
                continue;
            }
            tokio::select! {
                biased;
                () = finish.wait() => {}
                () = bell.wait() => {}
            }
            continue;
        };
        let done = match feeder.turn(next).await {
            Ok(Done::Something) => {
                patience.renew(&feeder.parts, feeder.outlet.sink.name());
                continue;
            }
            Ok(Done::NotVisible) if !finish.is_raised() => {
                tokio::time::sleep(LOOK / 10).await;
                continue;
            }
            Ok(Done::NotVisible) => Fault::retry("letters of a committed epoch are not visible yet"),
            Err(fault) => fault,
        };
        if let Some(fault) = patience.spend(&feeder.parts, feeder.outlet.sink.name(), done).await? {
            return Ok(Some(fault));
        }
    }
}

impl Feeder {
    async fn load(&mut self) -> Result<()> {
        for row in self.parts.rows.feeds(self.outlet.sink.name()).await? {
            self.post.row_stands(row);
        }
        self.look().await
    }

    /// How far every shard has come. What its epochs hold is learned when their turn comes, unless it is heard before.
    async fn look(&mut self) -> Result<()> {
        for shard in self.parts.rows.shards().await? {
            self.post.committed_to(&shard.shard, shard.epoch);
        }
        Ok(())
    }

    async fn hear(&mut self, bell: &LetterBell) -> Result<()> {
        let heard = bell.take();
        for ((shard, epoch), files) in heard.hints {
            self.post.committed(&shard, epoch, files);
        }
        if heard.missed { self.look().await } else { Ok(()) }
    }

    async fn tell(&mut self) -> Result<()> {
        let (sink, letters) = (self.outlet.sink.name(), self.post.waiting());
        let turn = self.post.turn();
        let holds = self.outlet.holds && self.post.is_behind();
        self.parts.board.update_sink(sink, |live| (live.waiting, live.holds) = (letters, holds));
        match turn {
            Some(Turn::Behind) => tracing::error!(alert = "sink_behind", sink, letters, holds, "letters wait for a sink"),
            Some(Turn::CaughtUp) => tracing::info!(sink, letters, "the sink is not behind any more"),
            None => {}
        }
        // Not before it is known how many wait: the last feeder may have said so with reason.
        let known = holds || !matches!(self.post.next(), Some(Next::Learn { .. }));
        if self.outlet.holds && self.parts.shared && known && self.said != Some(holds) {
            say(&self.parts, self.outlet.sink.name(), holds).await?;
            self.said = Some(holds);
        }
        Ok(())
    }

    async fn turn(&mut self, next: Next) -> Result<Done> {
        match next {
            Next::Note(row) => self.swap(&row).await.map(|()| Done::Something),
            Next::Learn { shard, above } => {
                self.post.had_its_turn(&shard);
                for (epoch, files) in self.epochs(&shard, above).await? {
                    self.post.committed(&shard, epoch, files);
                }
                Ok(Done::Something)
            }
            Next::Send { shard, output, place } => {
                self.post.had_its_turn(&shard);
                self.send(&shard, &output, place).await
            }
        }
    }

    /// Letter files of the epochs of a shard after this one: from their objects, and where those are collected, from the ledger.
    async fn epochs(&self, shard: &ShardId, above: u64) -> Result<Vec<(u64, Vec<PendingOutput>)>> {
        let parts = &self.parts;
        let row = parts.rows.shard(shard).await?.ok_or_else(|| Fault::corrupt(format!("no row for {shard}")))?;
        let chain = match history::chain(parts.blobs.as_ref(), &row, above).await {
            Ok(chain) => chain,
            Err(fault) => return Err(history::damage_or_fence(parts.rows.as_ref(), &row, fault).await),
        };
        let oldest = chain.last().map_or(row.epoch + 1, |link| link.epoch.header.epoch);
        let mut epochs = Vec::new();
        if oldest > above + 1 {
            // After the chain: what was collected meanwhile is in the ledger before its object goes.
            let lines = parts.ledger.lines(shard).await?;
            let headers = lines.into_iter().map(|line| line.header);
            let missing = headers.filter(|header| header.epoch > above && header.epoch < oldest);
            epochs.extend(missing.map(|header| (header.epoch, letter_files(&header.outputs))));
        }
        let headers = chain.into_iter().rev().map(|link| link.epoch.header).filter(|header| header.epoch > above);
        epochs.extend(headers.map(|header| (header.epoch, letter_files(&header.outputs))));
        let whole = epochs.iter().zip(above + 1..).all(|((epoch, _), number)| *epoch == number);
        match whole && !epochs.is_empty() {
            true => Ok(epochs),
            false => Err(Fault::retry(format!("epochs of {shard} after {above} are neither stored nor in the ledger yet"))),
        }
    }

    async fn send(&mut self, shard: &ShardId, output: &PendingOutput, place: LetterPlace) -> Result<Done> {
        let Some(slice) = self.read(output, place).await? else { return Ok(Done::NotVisible) };
        let after = self.post.after(shard, output, place, &slice);
        let after = after.ok_or_else(|| Fault::bug("letters of a shard that is not known"))?;
        if sabotage::is(Sabotage::AcknowledgeFirst) {
            self.swap(&after).await?;
            return self.outlet.sink.send(&slice.letters).await.map(|_fed| Done::Something);
        }
        let fed = self.outlet.sink.send(&slice.letters).await?;
        crash::pass("feed.after_send");
        let after = self.noting(after, &fed.refused);
        tracing::debug!(sink = self.outlet.sink.name(), %shard, epoch = output.epoch, letters = slice.letters.len(), "sent");
        self.swap(&after).await?;
        Ok(Done::Something)
    }

    /// Letters that the sink will never take lie in their files like all others; somebody is told.
    fn noting(&self, mut after: FeedRow, refused: &[(String, u64)]) -> FeedRow {
        if let Feed::Letters(has) = &mut after.fed {
            for (reason, letters) in refused {
                let (sink, shard) = (self.outlet.sink.name(), &has.shard);
                tracing::error!(alert = "sink_refused", sink, %shard, reason, letters, "refused");
                has.refused += letters;
            }
        }
        after
    }

    /// Some letters from this place on, at least one; none if the file is not visible yet.
    async fn read(&self, output: &PendingOutput, place: LetterPlace) -> Result<Option<Slice>> {
        let (mut bytes, mut seen) = (READ_BYTES, None);
        loop {
            let Some(data) = self.parts.outputs.read_visible(output, place.offset, bytes).await? else { return Ok(None) };
            let slice = slice(&output.path, place, &data)?;
            if !slice.letters.is_empty() {
                return Ok(Some(slice));
            }
            // The end is where no more comes.
            if seen == Some(data.len()) {
                return Err(Fault::corrupt(format!("{} ends in the middle of a letter: restore it from a backup", output.path)));
            }
            (bytes, seen) = (bytes.saturating_mul(4), Some(data.len()));
        }
    }

    async fn swap(&mut self, row: &FeedRow) -> Result<()> {
        match swap(&self.parts, row).await {
            Ok(()) => self.post.row_stands(row.clone()),
            // Another feeder was here: it goes on from there.
            Err(fault) if fault.kind() == Kind::Fenced => {
                let Feed::Letters(has) = &row.fed else { return Err(fault) };
                if let Some(now) = self.parts.rows.feed(&row.sink, &letters_key(&has.shard)).await? {
                    self.post.row_stands(now);
                }
                return Err(fault);
            }
            Err(fault) => return Err(fault),
        }
        crash::pass("feed.after_swap");
        Ok(())
    }
}
