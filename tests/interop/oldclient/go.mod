module derper.test/oldclient

go 1.27.3

require tailscale.com v1.10.0

require (
	go4.org/intern v0.0.0-20211027215823-ae77deb06f29 // indirect
	go4.org/mem v0.0.0-20201119185036-c04c5a6ff174 // indirect
	go4.org/unsafe/assume-no-moving-gc v0.0.0-20231121144256-b99613f794b6 // indirect
	golang.org/x/crypto v0.0.0-20210513164829-c07d793c2f9a // indirect
	golang.org/x/net v0.0.0-20210525063256-abc453219eb5 // indirect
	golang.org/x/sync v0.0.0-20210220032951-036812b2e83c // indirect
	golang.org/x/sys v0.0.0-20210616094352-59db8d763f22 // indirect
	golang.org/x/time v0.0.0-20210611083556-38a9dc6acbc6 // indirect
	inet.af/netaddr v0.0.0-20210602152128-50f8686885e3 // indirect
	rsc.io/goversion v1.2.0 // indirect
)

replace inet.af/netaddr => github.com/inetaf/netaddr v0.0.0-20220811202034-502d2d690317

exclude inet.af/netstack v0.0.0-20210622165351-29b14ebc044e

exclude inet.af/peercred v0.0.0-20210318190834-4259e17bb763

exclude inet.af/wf v0.0.0-20210516214145-a5343001b756
