//! Immutable objects in S3, as the actors see them.
//!
//! Owns: what an outcome means for an object that is written once. Does not own: requests (store).

use async_trait::async_trait;
use bytes::Bytes;
use sluicebox_actors::model::fault::{Fault, Result};
use sluicebox_actors::ports::Blobs;

use super::store::{Put, S3Store};

/// Longest object that is read whole.
const OBJECT_MAX: u64 = 4 << 30;

/// The objects of one store. Cheap to clone.
#[derive(Clone, Debug)]
pub struct S3Blobs {
    store: S3Store,
}

impl S3Blobs {
    /// Over this store.
    pub fn new(store: S3Store) -> Self {
        Self { store }
    }
}

#[async_trait]
impl Blobs for S3Blobs {
    async fn put(&self, key: &str, data: Bytes) -> Result<()> {
        match self.store.put_if_absent(key, data).await? {
            Put::Stored => Ok(()),
            Put::Refused(_) => Err(Fault::corrupt(format!("the object {key} exists with other bytes"))),
        }
    }

    async fn get(&self, key: &str) -> Result<Bytes> {
        self.store.get(key, OBJECT_MAX).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<String>> {
        self.store.list(prefix).await
    }

    async fn delete(&self, key: &str) -> Result<()> {
        self.store.delete(key).await
    }
}
