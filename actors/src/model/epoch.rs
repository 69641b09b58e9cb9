//! An epoch object: everything that one commit makes true, in one immutable blob.
//!
//! ```text
//! "SBEPOCH1"  8 bytes, magic and format version
//! header_len  u32, little endian, at most 64 MiB
//! header      JSON, `EpochHeader`
//! segments    Arrow IPC streams, one per (table, window, partition); the header's index gives offset and length
//! crc32       u32, little endian, over everything before it
//! ```
//!
//! Owns: the format, its reading and its refusal of damage. Does not own: when an epoch ends (machines/shard), the CAS
//! (machines/commit).

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::fault::{Fault, Result};
use super::ledger::Counts;
use super::position::{Position, ShardId};
use super::window::Bound;

const MAGIC: &[u8; 8] = b"SBEPOCH1";
const HEADER_MAX: usize = 64 << 20;

/// Lower-case hexadecimal SHA-256.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Hash(String);

impl Hash {
    /// Of these bytes.
    pub fn of(data: &[u8]) -> Self {
        Self::from_digest(&Sha256::digest(data))
    }

    /// From a finished digest of 32 bytes.
    pub fn from_digest(digest: &[u8]) -> Self {
        use std::fmt::Write;
        Self(digest.iter().fold(String::with_capacity(64), |mut text, byte| {
            // Writing to a String cannot fail.
            if write!(text, "{byte:02x}").is_err() {
                text.clear();
            }
            text
        }))
    }

    /// The digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Hash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0.get(..12).unwrap_or(&self.0))
    }
}

/// Key, length and hash of an immutable object.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ObjectRef {
    /// Key in the blob store.
    pub key: String,
    /// Length in bytes.
    pub len: u64,
    /// SHA-256 of the bytes.
    pub sha256: Hash,
}

/// Which table an output belongs to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutputClass {
    /// Raw records.
    Bronze,
    /// Validated rows.
    Silver,
    /// Dead letters.
    Dlq,
}

/// Where the bytes of a staged output are until they are visible: whoever takes the shard over must find them there.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Held {
    /// In the file `staged`, on a disk that every owner of the shard has.
    #[default]
    File,
    /// In the epoch object that lists it.
    Inline,
    /// In an upload in parts, invisible until it is completed.
    Upload {
        /// Id of the upload.
        id: String,
        /// Its parts, in order.
        parts: Vec<UploadedPart>,
    },
}

impl Held {
    fn is_file(&self) -> bool {
        *self == Self::File
    }
}

/// One part of an upload.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct UploadedPart {
    /// Number, from 1.
    pub number: i32,
    /// As the store named it.
    pub etag: String,
    /// SHA-256 in base64, as the store checked it.
    pub sha256: String,
}

/// A file that is written but not visible until the commit that names it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PendingOutput {
    /// Which table it belongs to.
    pub class: OutputClass,
    /// Its name until it is visible, unique among all tries: relative to the data directory of whoever wrote it.
    pub staged: String,
    /// Where it will be seen, relative to the root of the tables.
    pub path: String,
    /// Length in bytes.
    pub len: u64,
    /// SHA-256 of the bytes.
    pub sha256: Hash,
    /// Rows in it.
    pub rows: u64,
    /// The epoch that wrote it.
    pub epoch: u64,
    /// Why the file was closed (`epoch`, `size`, `open_files`).
    pub closed_because: String,
    /// Where its bytes are until then.
    #[serde(default, skip_serializing_if = "Held::is_file")]
    pub held: Held,
}

/// A staged output, with its bytes where the epoch object has to hold them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HeldOutput {
    /// The output.
    pub output: PendingOutput,
    /// Its bytes, for [`Held::Inline`] and for nothing else.
    pub body: Option<Bytes>,
}

impl From<PendingOutput> for HeldOutput {
    /// One that is not inline.
    fn from(output: PendingOutput) -> Self {
        Self { output, body: None }
    }
}

/// Where the bytes of an inline output lie.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct InlineBody {
    /// The output's `staged`.
    pub staged: String,
    /// Byte offset, counted as a segment's.
    pub offset: u64,
    /// Length in bytes.
    pub len: u64,
}

/// One aggregated piece of one window inside an epoch object.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Segment {
    /// Gold table.
    pub table: String,
    /// Start of the window.
    pub window_us: i64,
    /// How many committed epochs of this shard have touched this window, this one included.
    pub ordinal: u64,
    /// (record, window) pairs in it: what the hidden row counters of its groups add up to.
    pub rows: u64,
    /// Byte offset from the start of the object.
    pub offset: u64,
    /// Length in bytes.
    pub len: u64,
}

/// What an epoch did to one window, beside the partials.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct WindowCounts {
    /// Gold table.
    pub table: String,
    /// Start of the window.
    pub window_us: i64,
    /// Records that came before the window's end.
    pub on_time: u64,
    /// Records that came after it.
    pub late: u64,
    /// Records that came too late and are letters.
    pub too_late: u64,
}

/// The head of an epoch object.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EpochHeader {
    /// Id of the pipeline, as in `state/identity.json`.
    pub pipeline: String,
    /// Fingerprint of the configuration that produced it.
    pub fingerprint: String,
    /// Name of the stream.
    pub stream: String,
    /// Shard.
    pub shard: ShardId,
    /// Number, from 1.
    pub epoch: u64,
    /// Lease under which it was written.
    pub lease_epoch: u64,
    /// It covers the records after this …
    pub from: Position,
    /// … up to and including this.
    pub to: Position,
    /// The bound it opened with: the judge of every record in it.
    pub bound_opened: Bound,
    /// The bound it commits: what the next epoch opens with.
    pub bound_committed: Bound,
    /// Largest event time in it, microseconds.
    pub max_event_us: Option<i64>,
    /// Arrival of its last record, microseconds.
    pub last_arrival_us: Option<i64>,
    /// All that had arrived by then, by the stream's clock, lies in it or before it; none where the stream tells by itself
    /// what it has forgotten.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fresh_us: Option<i64>,
    /// The one value of `_processed_at` in it, microseconds.
    pub processed_at_us: i64,
    /// Is Bronze written? (equation 2 holds only then)
    pub bronze_on: bool,
    /// Its records were handed over by somebody who does not tell what lay between them and the epoch before.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unproven_start: bool,
    /// Counts of this epoch.
    pub counts: Counts,
    /// Running totals up to and including this epoch.
    pub totals: Counts,
    /// SHA-256 of the previous epoch object; none for epoch 1.
    pub previous: Option<Hash>,
    /// Index of the partials.
    pub segments: Vec<Segment>,
    /// What it did to each window.
    pub windows: Vec<WindowCounts>,
    /// Ordinals of every window that this shard may still touch: table → window start → ordinal.
    pub ordinals: BTreeMap<String, BTreeMap<i64, u64>>,
    /// Outputs that may not be visible yet: its own, and earlier ones not yet acknowledged.
    pub pending: Vec<PendingOutput>,
    /// Outputs of this epoch alone, kept for the audit.
    pub outputs: Vec<PendingOutput>,
    /// Outputs of earlier epochs that were lost before they became visible and are written once more: same class, path, epoch
    /// and number of rows, and from now on this length and hash.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rebuilt: Vec<PendingOutput>,
    /// Index of the pending outputs whose bytes are in this object.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inline: Vec<InlineBody>,
}

/// What stays of an epoch when its object is collected: one line of the table `ledger`, NDJSON.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LedgerLine {
    /// The head without its indexes, the ordinals and the pending list (all empty).
    #[serde(flatten)]
    pub header: EpochHeader,
    /// SHA-256 of the epoch object: what the next epoch's `previous` must say.
    pub digest: Hash,
    /// Sum of the hidden row counters of its partials, per Gold table.
    pub partial_rows: BTreeMap<String, u64>,
}

impl LedgerLine {
    /// The line of an epoch.
    pub fn of(header: &EpochHeader, digest: Hash) -> Self {
        let mut partial_rows = BTreeMap::new();
        for segment in &header.segments {
            *partial_rows.entry(segment.table.clone()).or_default() += segment.rows;
        }
        let mut header = header.clone();
        header.segments.clear();
        header.ordinals.clear();
        header.pending.clear();
        header.inline.clear();
        Self { header, digest, partial_rows }
    }
}

/// A partial to be stored: one (table, window) piece of one partition, as an Arrow IPC stream.
#[derive(Clone, Debug)]
pub struct SegmentBody {
    /// Gold table.
    pub table: String,
    /// Start of the window.
    pub window_us: i64,
    /// Sum of the hidden row counters.
    pub rows: u64,
    /// Arrow IPC stream.
    pub body: Bytes,
}

/// Lays an epoch object out. `header.segments` is filled here from `bodies` and `header.ordinals`, `header.inline` from what is
/// held inline.
pub fn encode(header: &mut EpochHeader, bodies: &[SegmentBody], held: &[HeldOutput]) -> Result<Bytes> {
    // Offsets depend on the header's length and the header holds the offsets: offsets count from the end of the header.
    header.segments.clear();
    let mut offset = 0u64;
    for body in bodies {
        let ordinal = header.ordinals.get(&body.table).and_then(|windows| windows.get(&body.window_us)).copied();
        header.segments.push(Segment {
            table: body.table.clone(),
            window_us: body.window_us,
            ordinal: ordinal.ok_or_else(|| Fault::bug("a partial without an ordinal"))?,
            rows: body.rows,
            offset,
            len: body.body.len() as u64,
        });
        offset += body.body.len() as u64;
    }
    let inline: Vec<(&PendingOutput, &Bytes)> =
        held.iter().filter_map(|held| Some((&held.output, held.body.as_ref()?))).collect();
    header.inline.clear();
    for (output, body) in &inline {
        let len = body.len() as u64;
        header.inline.push(InlineBody { staged: output.staged.clone(), offset, len });
        offset += len;
    }
    let json = serde_json::to_vec(header).map_err(|error| Fault::bug(format!("epoch header: {error}")))?;
    if json.len() > HEADER_MAX {
        return Err(Fault::bug("an epoch header over 64 MiB: too many windows or files in one epoch; lower commit.size"));
    }
    let mut out = Vec::with_capacity(16 + json.len() + offset as usize);
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&(json.len() as u32).to_le_bytes());
    out.extend_from_slice(&json);
    for body in bodies.iter().map(|segment| &segment.body).chain(inline.into_iter().map(|(_, body)| body)) {
        out.extend_from_slice(body);
    }
    let crc = crc32fast::hash(&out);
    out.extend_from_slice(&crc.to_le_bytes());
    Ok(out.into())
}

/// An epoch object in memory.
#[derive(Clone, Debug)]
pub struct EpochObject {
    /// The head.
    pub header: EpochHeader,
    body: Bytes,
}

impl EpochObject {
    /// Reads an object whole; anything damaged is refused with what is wrong.
    pub fn decode(data: &Bytes) -> Result<Self> {
        let bad = |what: &str| Fault::corrupt(format!("epoch object: {what}"));
        let crc_at = data.len().checked_sub(4).ok_or_else(|| bad("shorter than its checksum"))?;
        let stored = data.get(crc_at..).and_then(|tail| tail.try_into().ok()).map(u32::from_le_bytes);
        if stored != Some(crc32fast::hash(&data[..crc_at])) {
            return Err(bad("checksum differs"));
        }
        if data.get(..8) != Some(MAGIC) {
            return Err(bad("not an epoch object of format 1"));
        }
        let len = data.get(8..12).and_then(|len| len.try_into().ok()).map(u32::from_le_bytes);
        let end = 12 + len.ok_or_else(|| bad("no header length"))? as usize;
        if end > crc_at {
            return Err(bad("header longer than the object"));
        }
        let header = serde_json::from_slice(&data[12..end]).map_err(|error| bad(&format!("header: {error}")))?;
        Ok(Self { header, body: data.slice(end..crc_at) })
    }

    /// The Arrow IPC stream of one segment.
    pub fn segment(&self, segment: &Segment) -> Result<Bytes> {
        self.piece("a segment", segment.offset, segment.len)
    }

    /// Every pending output, with its bytes where this object holds them.
    pub fn pending(&self) -> Result<Vec<HeldOutput>> {
        self.header.pending.iter().map(|output| Ok(HeldOutput { output: output.clone(), body: self.inline(output)? })).collect()
    }

    /// The bytes of an output that this object holds; none if they are elsewhere.
    fn inline(&self, output: &PendingOutput) -> Result<Option<Bytes>> {
        match output.held {
            Held::File | Held::Upload { .. } => Ok(None),
            Held::Inline => {
                let found = self.header.inline.iter().find(|body| body.staged == output.staged);
                let found = found.ok_or_else(|| Fault::corrupt("epoch object: an inline output without its bytes"))?;
                self.piece("an inline output", found.offset, found.len).map(Some)
            }
        }
    }

    fn piece(&self, what: &str, offset: u64, len: u64) -> Result<Bytes> {
        let outside = || Fault::corrupt(format!("epoch object: {what} lies outside of it"));
        // Offset and length are what the object claims: their sum may not fit.
        let end = offset.checked_add(len).filter(|end| *end <= self.body.len() as u64).ok_or_else(outside)?;
        Ok(self.body.slice(offset as usize..end as usize))
    }
}
