"""Published experiments: each module reruns one of them and reports which published claims reproduce."""
