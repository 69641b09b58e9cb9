//! Goal: where somebody else's endpoint differs from AWS, in one place and with the reason. Ours may not differ.
//!
//! Found with kinesis-local 0.6.2:
//!
//! | where | AWS, ours | theirs | reason |
//! |--|--|--|--|
//! | keys, hash keys, `Limit` out of bounds | ValidationException | InvalidArgumentException, or accepted | other checks |
//! | a put of 501 records, or of none | refused whole | accepted and stored | it does not count them |
//! | ShardFilter AT_TRIM_HORIZON | shards open at the horizon | all shards whose records are kept | it has no time of opening |
//! | boundaries after UpdateShardCount | multiples of 2^128 / n | one less | it rounds down from 2^128 - 1 |
//! | a split at the shard's first hash key | InvalidArgumentException | accepted | it does not look |
//! | a second subscription within 5 s | ResourceInUseException at once | HTTP 200 | it tells inside the stream, if at all |
//! | shard end and takeover of a subscription | as documented | never | it sends neither ChildShards nor an end |
//! | sequence numbers that were never given | InvalidArgumentException | ResourceNotFoundException | it looks the number up |
//! | iterators and tokens that are none | InvalidArgumentException | HTTP 500 | it decrypts without checking |

use aws_sdk_kinesis::error::{ProvideErrorMetadata, SdkError};

use super::harness::Contract;

/// The call is refused with this code; somebody else's endpoint may use its own, or accept where the table says so.
pub(crate) fn allowed<T: std::fmt::Debug, E: ProvideErrorMetadata + std::fmt::Debug>(
    contract: &Contract,
    what: &str,
    answer: Result<T, SdkError<E, impl std::fmt::Debug>>,
    expected: &str,
) {
    if contract.ours.is_none() {
        return;
    }
    let error = answer.expect_err(what);
    assert_eq!(error.code(), Some(expected), "{what}: {error:?}");
}
