//! Goal: where somebody else's endpoint differs from AWS, in one place and with the reason. Ours may not differ.
//!
//! Found with kinesis-local 0.6.2:
//!
//! | where | AWS, ours | theirs | reason |
//! |--|--|--|--|
//! | requests out of bounds (501 records, none, keys, `Limit`) | ValidationException | InvalidArgumentException, or accepted | it checks in its own words, or not at all |
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
