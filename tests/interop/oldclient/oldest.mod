module derper.test/oldclient

go 1.27.3

require tailscale.com v1.0.0

require (
	github.com/tailscale/wireguard-go v0.0.0-20200724155040-d554a2a5e7e1 // indirect
	go4.org/intern v0.0.0-20211027215823-ae77deb06f29 // indirect
	go4.org/mem v0.0.0-20200706164138-185c595c3ecc // indirect
	go4.org/unsafe/assume-no-moving-gc v0.0.0-20231121144256-b99613f794b6 // indirect
	golang.org/x/crypto v0.0.0-20200622213623-75b288015ac9 // indirect
	golang.org/x/net v0.0.0-20201021035429-f5854403a974 // indirect
	golang.org/x/oauth2 v0.0.0-20200107190931-bf48bf16ab8d // indirect
	golang.org/x/sync v0.0.0-20201020160332-67f06af15bc9 // indirect
	golang.org/x/sys v0.0.0-20210119212857-b64e53b001e4 // indirect
	golang.org/x/time v0.0.0-20191024005414-555d28b269f0 // indirect
	inet.af/netaddr v0.0.0-20200718043157-99321d6ad24c // indirect
)

replace inet.af/netaddr => github.com/inetaf/netaddr v0.0.0-20220811202034-502d2d690317
