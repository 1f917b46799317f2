//! The layer, and the proxy with it, between real servers and real clients.
//!
//! ```sh
//! tests/interop/install
//! cargo test -p interop -- --ignored --nocapture | grep '^|'    # what their users see
//! ```
//!
//! Each server is killed and restarted under a caller with the layer; each client is run through the
//! proxy while the server behind it is. Both are done without the layer as well, where nothing is
//! asserted: that is for the table, one row from each test.

#[path = "../../examples/proxy/tests/support/program.rs"]
mod program;

mod balancer;
mod caller;
mod clients;
mod gateways;
mod once;
mod process;
mod rust;
mod servers;
mod store_faults;
mod stored;
mod users;

/// Not a test: this program as an MCP server or client on rmcp, see [`rust`].
#[test]
#[ignore = "started by other tests"]
fn rmcp_program() {
    rust::run();
}
