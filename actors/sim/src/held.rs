//! Staged files of a simulated world on their way to readers: held where a successor finds them, published, discarded.
//!
//! Owns: the effect of these operations, the rules that must hold at each. Does not own: the rest of the world (store), how files
//! are written (files).

use bytes::Bytes;
use sluicebox_actors::model::epoch::{EpochHeader, Hash, Held, HeldOutput, PendingOutput};
use sluicebox_actors::model::fault::{Fault, Result};
use sluicebox_actors::model::position::ShardId;
use sluicebox_actors::ports::Publication;

use crate::store::{File, Store, Upload};

impl Store {
    /// The files of a process that is no more, where processes share no disk.
    pub fn loses_its_disk(&mut self, who: u64) {
        self.staged.retain(|_, file| file.only_of != Some(who));
    }

    /// Small files go into the epoch object, others to where any process finds them.
    pub fn hold(&mut self, staged: &[PendingOutput], who: u64) -> Result<Vec<HeldOutput>> {
        let mut held = Vec::new();
        for output in staged {
            let file = self.staged.get_mut(&output.staged).ok_or_else(|| Fault::bug(format!("{} is gone", output.staged)))?;
            let mut output = output.clone();
            let is_small = file.lines.len() < 3;
            let (at_hand, body) = (file.only_of == Some(who), is_small.then(|| Bytes::from(file.lines.join("\n"))));
            output.held = match is_small {
                true => Held::Inline,
                false => {
                    file.only_of = None;
                    // Each try is an upload of its own: whoever does not hear of one begins another.
                    self.uploads_begun += 1;
                    let id = format!("{}#{}", output.staged, self.uploads_begun);
                    let (shard, staged) = (file.shard.clone(), output.staged.clone());
                    let upload = Upload { shard, lease_epoch: file.lease_epoch, epoch: file.epoch, staged };
                    self.uploads.insert(id.clone(), upload);
                    Held::Upload { id, parts: Vec::new() }
                }
            };
            // A large one may be there by an earlier try.
            self.rule(at_hand || !is_small, || format!("{} is held by a process that has not written it", output.staged));
            self.mark(if is_small { "a file is held in its epoch object" } else { "a file is held as an upload" });
            held.push(HeldOutput { output, body });
        }
        Ok(held)
    }

    /// The staged file of an output, whoever has it; an inline one comes out of the epoch object.
    fn take_held(&mut self, held: &HeldOutput, who: u64) -> Option<File> {
        let staged = self.staged.remove(&held.output.staged);
        let Some(body) = held.body.as_ref().filter(|_| !self.visible.contains_key(&held.output.path)) else {
            let within_reach = staged.as_ref().is_none_or(|file| file.only_of.is_none_or(|only| only == who));
            self.rule(within_reach, || format!("{} is published from another process's disk", held.output.staged));
            return staged;
        };
        let commits = self.commits.values().flatten();
        let commit = commits.into_iter().find(|commit| commit.names(&held.output))?;
        let (header, text) = (&commit.header, String::from_utf8_lossy(body));
        let lines: Vec<String> = text.split('\n').map(str::to_owned).collect();
        Some(File {
            class: held.output.class,
            shard: header.shard.clone(),
            epoch: held.output.epoch,
            lease_epoch: header.lease_epoch,
            lines,
            sha256: Hash::of(body),
            only_of: None,
        })
    }

    /// A rule of the bucket ends uploads, somebody cleans up a directory: some of what is committed and not visible is gone. Was
    /// anything?
    pub fn expire(&mut self, mut chance: impl FnMut() -> bool) -> bool {
        let mut any = false;
        let commits = self.commits.values().flatten();
        let committed: Vec<PendingOutput> = commits.flat_map(|commit| commit.header.pending.clone()).collect();
        for output in &committed {
            let is_visible = self.visible.contains_key(&output.path);
            let is_out_of_reach = is_visible || output.held == Held::Inline || !self.staged.contains_key(&output.staged);
            if is_out_of_reach || !chance() {
                continue;
            }
            self.staged.remove(&output.staged);
            self.uploads.retain(|_, upload| upload.staged != output.staged);
            self.mark("a file of a committed epoch is lost");
            any = true;
        }
        any
    }

    pub fn publish(&mut self, lease: u64, epoch: u64, held: &HeldOutput, who: u64) -> Result<Publication> {
        let output = &held.output;
        if let Held::Upload { id, .. } = &output.held {
            self.uploads.remove(id);
        }
        let Some(file) = self.take_held(held, who) else {
            return match self.visible.get(&output.path) {
                Some(file) if file.sha256 == output.sha256 => {
                    self.mark("a file is published again");
                    Ok(Publication::Visible)
                }
                Some(_) => Err(Fault::corrupt(format!("{} is visible with other bytes", output.path))),
                None => Ok(Publication::Lost(format!("{} is gone", output.path))),
            };
        };
        let commits = self.commits.get(&file.shard).map(Vec::as_slice).unwrap_or_default();
        let named = commits.iter().any(|commit| commit.names(output) && commit.row.epoch <= epoch);
        let (shard, of) = (file.shard.clone(), file.epoch);
        self.check_permit(&shard, lease, epoch, who);
        if file.lease_epoch < lease {
            self.mark("a file is published by its owner's successor");
        }
        self.rule(named, || {
            format!("{shard}: {} of epoch {of} is visible under permit {lease}/{epoch} without a commit", output.path)
        });
        self.rule(file.sha256 == output.sha256, || format!("{} is not what was staged", output.path));
        self.visible.insert(output.path.clone(), file);
        Ok(Publication::Visible)
    }

    /// What is written once more was promised before, and was not there.
    pub(crate) fn check_rebuilt(&mut self, header: &EpochHeader) {
        let shard = &header.shard;
        for again in &header.rebuilt {
            let same = |output: &PendingOutput| {
                (output.class, &output.path, output.rows, output.epoch) == (again.class, &again.path, again.rows, again.epoch)
            };
            let commits = self.commits.get(shard).into_iter().flatten();
            let promised =
                commits.filter(|commit| commit.row.epoch == again.epoch).any(|commit| commit.header.outputs.iter().any(same));
            self.rule(promised, || format!("{shard}: {} is written once more and was never written", again.path));
            let hidden = !self.visible.contains_key(&again.path);
            self.rule(hidden, || format!("{shard}: {} is written once more although readers see it", again.path));
            self.mark("a file of a committed epoch is written once more");
        }
    }

    pub fn discard(&mut self, lease: u64, epoch: u64, shard: &ShardId, keep: &[PendingOutput], who: u64) -> u64 {
        self.check_permit(shard, lease, epoch, who);
        let before = self.staged.len();
        self.staged.retain(|key, file| {
            let is_live = (file.lease_epoch, file.epoch) > (lease, epoch);
            let is_elsewhere = file.only_of.is_some_and(|only| only != who);
            file.shard != *shard || is_live || is_elsewhere || keep.iter().any(|output| output.staged == *key)
        });
        let discarded = (before - self.staged.len()) as u64;
        let begun = self.uploads.len();
        self.uploads.retain(|id, upload| {
            let kept = |output: &PendingOutput| matches!(&output.held, Held::Upload { id: of, .. } if of == id);
            upload.shard != *shard || (upload.lease_epoch, upload.epoch) > (lease, epoch) || keep.iter().any(kept)
        });
        if self.uploads.len() < begun {
            self.mark("an upload that nobody named is ended");
        }
        if discarded > 0 {
            self.mark(match epoch {
                u64::MAX => "files that were staged under a lost lease are deleted",
                _ => "files of an epoch that never became true are deleted",
            });
        }
        discarded
    }
}
