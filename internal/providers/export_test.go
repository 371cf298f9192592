package providers

import "net/http"

// TransportOf lets tests trust their own certificates.
func TransportOf(p Provider) *http.Transport { return p.(*remote).pool.transport }
