"""The edge endpoint: the rendezvous where two clients of one session get each other's addresses, alone or in a mesh."""
