mod support;
use support::s3server::TestS3;
#[test]
fn starts() {
    let s = TestS3::start();
    println!("{}", s.endpoint());
}
