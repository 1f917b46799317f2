//! Every store that needs nothing but this machine, against the test suite for stores (rule N7).

use mcp_session_recovery::store::{MemoryStore, RedbStore, SealKey, Sealed, conformance};

#[tokio::test(flavor = "multi_thread")]
async fn n7_the_store_in_memory_conforms() {
    let store = MemoryStore::new();
    conformance::check(store.clone()).await;
    assert!(store.is_empty());
}

#[tokio::test(start_paused = true)]
async fn n7_the_store_in_memory_goes_by_the_clock_of_tokio() {
    conformance::check(MemoryStore::new()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn n7_a_sealed_store_conforms() {
    let key = SealKey::from_bytes([7; 32]);
    conformance::check(Sealed::new(MemoryStore::new(), key)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn n7_the_store_in_a_file_conforms() {
    let directory = tempfile::tempdir().unwrap();
    let store = RedbStore::open(directory.path().join("sessions")).await;
    conformance::check(store.unwrap()).await;
}
