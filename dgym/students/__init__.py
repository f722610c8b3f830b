"""Who learns: families of students, hosts, and the script that makes those that ship."""
