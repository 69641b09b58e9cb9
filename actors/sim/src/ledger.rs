//! The ledger of a simulated world: files that are listed, read and put one by one, as in a bucket.
//!
//! Owns: the effects of these operations, the rule that no epoch stands twice. Does not own: who writes which file
//! (`history::ledger` of the actors, which is the real one).

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use sluicebox_actors::history::ledger::Ledger;
use sluicebox_actors::model::epoch::LedgerLine;
use sluicebox_actors::model::fault::{Fault, Result};
use sluicebox_actors::ports::Blobs;

use crate::plan::{Flaw, Op};
use crate::process::Process;
use crate::store::Store;

/// The real ledger over the files of this world.
pub(crate) fn ledger(process: &Arc<Process>) -> Ledger {
    Ledger::new(Arc::new(Files(process.clone())), |shard| Ok(shard.to_string()))
}

struct Files(Arc<Process>);

impl Store {
    /// Only if there is nothing under the key, or the same.
    fn put_ledger(&mut self, key: &str, data: &Bytes, forgets: bool) -> Result<()> {
        if let Some(stored) = self.ledger_files.get(key) {
            let same = stored == data;
            self.mark(if same { "a file of the ledger is put again" } else { "a file of the ledger is refused" });
            return if same { Ok(()) } else { Err(Fault::corrupt(format!("{key} exists with other bytes"))) };
        }
        self.appends += 1;
        if forgets && self.appends % 2 == 1 {
            return Ok(());
        }
        self.ledger_files.insert(key.to_owned(), data.clone());
        for line in data.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            match serde_json::from_slice::<LedgerLine>(line) {
                Ok(line) => {
                    let (shard, epoch) = (line.header.shard.clone(), line.header.epoch);
                    let lines = self.ledger.entry(shard.clone()).or_default();
                    let known = lines.iter().any(|known| known.header.epoch == epoch);
                    lines.push(line);
                    self.rule(!known, || format!("{shard}: epoch {epoch} stands twice in the ledger, again in {key}"));
                }
                Err(error) => self.rule(false, || format!("{key}: {error}")),
            }
        }
        Ok(())
    }
}

#[async_trait]
impl Blobs for Files {
    async fn put(&self, key: &str, data: Bytes) -> Result<()> {
        let (name, forgets) = (key.to_owned(), self.0.has(Flaw::LedgerForgets));
        self.0.op(Op::LedgerPut, key, move |store| store.put_ledger(&name, &data, forgets)).await
    }

    async fn get(&self, key: &str) -> Result<Bytes> {
        let name = key.to_owned();
        self.0
            .op(Op::LedgerGet, key, move |store| {
                store.ledger_files.get(&name).cloned().ok_or_else(|| Fault::corrupt(format!("there is no {name}")))
            })
            .await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<String>> {
        let start = prefix.to_owned();
        self.0
            .op(Op::LedgerList, prefix, move |store| {
                Ok(store.ledger_files.keys().filter(|key| key.starts_with(&start)).cloned().collect())
            })
            .await
    }

    async fn delete(&self, key: &str) -> Result<()> {
        Err(Fault::bug(format!("{key}: nothing of the ledger is ever deleted")))
    }
}
